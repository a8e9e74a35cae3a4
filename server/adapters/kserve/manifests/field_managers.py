"""Name the field managers that wrote an InferenceService, from `metadata.managedFields`.

A write that only removes fields leaves no entry there, so its manager cannot be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from server.adapters.kserve.manifests.field_ownership import (
    Entry,
    managers_of,
    owned_fields,
)
from server.adapters.kserve.objects import Object, get_map, parse_time

MOST_OF_A_NAME = 64
MOST_NAMES = 3


def last_spec_writer(entries: Iterable[Entry]) -> str:
    """Return the name of the field manager of the newest write to the spec, or an empty text.

    The times have whole seconds: all managers of the newest second are named.
    """
    wrote = [
        (time, entry)
        for entry in entries
        if (time := parse_time(entry.get("time"))) and "f:spec" in get_map(entry, "fieldsV1")
    ]
    newest = max((time for time, _ in wrote), default=None)
    return manager_names(entry for time, entry in wrote if time == newest)


def other_owners(service: Object, *path: str) -> list[Entry]:
    """Return the managedFields entries of other managers that own the field at `path`."""
    return [e for e in managers_of(service).others if owned_fields([e], *path) is not None]


def owned_by_us(service: Object, *path: str) -> bool:
    """Return whether our server-side apply owns the field at `path`, or a part of it."""
    return owned_fields(managers_of(service).ours, *path) is not None


def manager_names(entries: Iterable[Entry]) -> str:
    """Join the names of the entries' field managers into one text of bounded length."""
    names = sorted({_printable(str(e.get("manager") or "")) for e in entries})
    more = len(names) - MOST_NAMES
    return " or ".join(names[:MOST_NAMES]) + (f" or {more} more" if more > 0 else "")


def newest_time(entries: Iterable[Entry]) -> datetime | None:
    """Return the time of the newest of these writes."""
    return max((time for e in entries if (time := parse_time(e.get("time")))), default=None)


def _printable(name: str) -> str:
    # Clients choose the name freely.
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable[:MOST_OF_A_NAME] or "a field manager without a name"
