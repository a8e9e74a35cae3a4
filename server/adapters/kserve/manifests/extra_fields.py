"""Compare two objects: which fields does one have beyond the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.domain.kubernetes.quantities import value as quantity

# Kubernetes' own defaults: writing one explicitly changes nothing.
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


def extra_fields(whole: Any, shown: Any, path: str) -> Iterator[str]:
    """Yield the paths of the fields that `whole` has and `shown` lacks, or has with another value.

    Empty fields of `whole` and Kubernetes' own defaults do not count. Quantities are compared by
    value.
    """
    if whole == shown:
        return
    if isinstance(whole, Mapping) and isinstance(shown, Mapping):
        for name, value in whole.items():
            if value in ("", None, {}, []) or (name in _DEFAULTS and _DEFAULTS[name] == value):
                continue
            if name in shown:
                yield from extra_fields(value, shown[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(whole, list) and isinstance(shown, list):
        yield from _extra_items(whole, shown, path)
    elif not _same_quantity(whole, shown):
        yield path


def _extra_items(whole: list[Any], shown: list[Any], path: str) -> Iterator[str]:
    """Compare items of one name, or without a name the items of one index."""
    # Reversed, so that the first item of a name is the one that is compared.
    twins = {_name(item): item for item in reversed(shown)} | dict(enumerate(shown))
    for index, value in enumerate(whole):
        key = _name(value) or index
        if key in twins:
            yield from extra_fields(value, twins[key], f"{path}[{key}]")
        else:
            yield f"{path}[{key}]"


def _name(item: Any) -> str | None:
    return item.get("name") if isinstance(item, dict) else None


def _same_quantity(one: object, other: object) -> bool:
    try:
        return quantity(str(one)) == quantity(str(other))
    except ValueError:
        return False
