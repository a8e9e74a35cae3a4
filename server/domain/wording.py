"""Helpers for messages to people."""

from __future__ import annotations

from collections.abc import Sequence

MOST_LISTED = 5


def listed(names: Sequence[str], most: int = MOST_LISTED) -> str:
    """Join the first names with commas, and append the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
