"""Names the field managers that wrote an InferenceService, from `metadata.managedFields`.

A write that only removes fields leaves no entry there, so that it cannot be attributed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from server.adapters.kserve.manifests.field_ownership import Entry, entries, ours
from server.adapters.kserve.objects import Object, get_map, parse_time

MOST_OF_A_NAME = 64
MOST_NAMES = 3


def last_spec_writer(service: Object) -> str:
    """Name the field manager of the newest write to the spec; empty where none is recorded.

    The times have whole seconds: of several managers in the same one, all are named.
    """
    wrote = [
        (at, entry)
        for entry in entries(service)
        if (at := parse_time(entry.get("time"))) and "f:spec" in get_map(entry, "fieldsV1")
    ]
    newest = max((at for at, _ in wrote), default=None)
    return manager_names(entry for at, entry in wrote if at == newest)


def other_owners(service: Object, *path: str) -> list[Entry]:
    """The managedFields entries of others that own the field at `path`."""
    return [e for e in entries(service) if not ours(e) and _owns(e, path)]


def owned_by_us(service: Object, *path: str) -> bool:
    """Whether our server-side apply owns the field at `path`, or a part of it."""
    return any(ours(e) and _owns(e, path) for e in entries(service))


def manager_names(found: Iterable[Entry]) -> str:
    """The names of the entries' field managers as one text of bounded length."""
    names = sorted({_shown(str(e.get("manager") or "")) for e in found})
    more = len(names) - MOST_NAMES
    return " or ".join(names[:MOST_NAMES]) + (f" or {more} more" if more > 0 else "")


def newest_time(found: Iterable[Entry]) -> datetime | None:
    """When the last of these entries was written."""
    return max((at for e in found if (at := parse_time(e.get("time")))), default=None)


def _owns(entry: Entry, path: tuple[str, ...]) -> bool:
    node: Object = get_map(entry, "fieldsV1")
    for name in path:
        if name not in node:
            return False
        node = node[name] or {}
    return True


def _shown(name: str) -> str:
    """Make a field manager's name fit to show: clients choose it freely."""
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable[:MOST_OF_A_NAME] or "a field manager without a name"
