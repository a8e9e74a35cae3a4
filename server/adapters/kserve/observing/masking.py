"""Keeping secret values out of what is shown of a container's own words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from server.adapters.kserve.objects import Object, items

_SECRET_NAME = re.compile("KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)


def secret_values(pod: Object) -> tuple[str, ...]:
    """The literal values of the pod's environment variables whose names look secret."""
    containers = [*items(pod, "spec", "initContainers"), *items(pod, "spec", "containers")]
    values = {
        str(variable["value"])
        for container in containers
        for variable in items(container, "env")
        if variable.get("value") and _SECRET_NAME.search(str(variable.get("name", "")))
    }
    lines = {line.strip() for value in values for line in value.splitlines()}
    # The longest first: one value may be a part of another.
    return tuple(sorted(values | lines - {""}, key=lambda v: (-len(v), v)))


def masked(text: str, values: Iterable[str]) -> str:
    """The text without these values."""
    for value in values:
        text = text.replace(value, "***")
    return text
