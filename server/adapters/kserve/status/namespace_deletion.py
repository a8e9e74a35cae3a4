"""Detect that a namespace is being deleted, by what the API server refuses to make in it.

Namespaces are not followed: each part of a service that goes is made anew by its controller, which
keeps the API server's refusal in its status. (Events are refused there too.)
"""

from __future__ import annotations

from server.adapters.kserve.objects import get_list, get_map
from server.adapters.kserve.status.observed_objects import ObservedObjects


def is_namespace_deleting(observed: ObservedObjects) -> bool:
    """Whether something was refused because the service's namespace is being deleted."""
    namespace = get_map(observed.service, "metadata").get("namespace")
    words = f"in namespace {namespace} because it is being terminated"
    objects = (
        observed.service,
        *observed.deployments,
        *observed.replica_sets,
        *observed.knative_services,
        *observed.revisions,
    )
    return any(
        words in str(condition.get("message") or "")
        for obj in objects
        for condition in get_list(obj, "status", "conditions")
    )
