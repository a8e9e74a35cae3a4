"""Name the values of the API's enums."""

from __future__ import annotations

from typing import Any


def enum_name(enum: Any, number: int, prefix: str) -> str:
    """Return the name of a value without its prefix; its number if this release does not know it,
    since a newer server may send it."""
    if number not in enum.values():
        return str(number)
    return str(enum.Name(number)).removeprefix(prefix)
