"""Keeping secret values out of what is shown of a model server's own words."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SECRET_NAME = re.compile("KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)


def secret_values(variables: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Those values of environment variables, given by name, whose names look secret."""
    values = {value for name, value in variables if value and _SECRET_NAME.search(name)}
    lines = {line.strip() for value in values for line in value.splitlines()}
    # The longest first: one value may be a part of another.
    return tuple(sorted(values | lines - {""}, key=lambda v: (-len(v), v)))


def masked(text: str, values: Iterable[str]) -> str:
    """The text without these values."""
    for value in values:
        text = text.replace(value, "***")
    return text
