"""What an object has beyond another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.domain.kubernetes.quantities import value as quantity

# What Kubernetes takes for a field that is left out: to name it asks for nothing.
_DEFAULTS = {
    "optional": False,
    "hostNetwork": False,
    "hostPID": False,
    "hostIPC": False,
    "stdin": False,
    "stdinOnce": False,
    "tty": False,
    "restartPolicy": "Always",
}


def beyond(whole: Any, shown: Any, path: str) -> Iterator[str]:
    """The paths of what `whole` has and `shown` lacks, or has otherwise; what is empty in `whole`
    says nothing, and quantities are the same however they are written."""
    if isinstance(whole, Mapping) and isinstance(shown, Mapping):
        for name, value in whole.items():
            if value in ("", None, {}, []) or (name in _DEFAULTS and _DEFAULTS[name] == value):
                continue
            if name in shown:
                yield from beyond(value, shown[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(whole, list) and isinstance(shown, list):
        yield from _items_beyond(whole, shown, path)
    elif not _same(whole, shown):
        yield path


def _items_beyond(whole: list[Any], shown: list[Any], path: str) -> Iterator[str]:
    """The items of a list: each found again by its name where it has one, else by its place."""
    # The first of a name counts, so it is put in last.
    twins = {_name(s): s for s in reversed(shown)} | dict(enumerate(shown))
    for place, value in enumerate(whole):
        known_by = _name(value) or place
        if known_by in twins:
            yield from beyond(value, twins[known_by], f"{path}[{known_by}]")
        else:
            yield f"{path}[{known_by}]"


def _name(item: Any) -> str | None:
    return item.get("name") if isinstance(item, dict) else None


def _same(one: object, other: object) -> bool:
    if one == other:
        return True
    try:
        return quantity(str(one)) == quantity(str(other))
    except ValueError:
        return False
