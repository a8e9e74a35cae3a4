"""Which values of a pod must not be shown."""

from __future__ import annotations

from server.adapters.kserve.objects import Object, items
from server.domain import masking


def secret_values(pod: Object) -> tuple[str, ...]:
    """The literal values of the pod's environment variables whose names look secret."""
    containers = [*items(pod, "spec", "initContainers"), *items(pod, "spec", "containers")]
    return masking.secret_values(
        (str(variable.get("name", "")), str(variable.get("value", "")))
        for container in containers
        for variable in items(container, "env")
    )
