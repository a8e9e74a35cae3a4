"""Detect that a namespace is being deleted, by the objects that the API server refuses to create.

The informers do not follow namespaces. A controller re-creates every deleted part of a service, and
keeps the API server's refusal in its status. (Events are refused, too.)
"""

from __future__ import annotations

from server.adapters.kserve.objects import Object, get_list
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import ParsedService, parse_service


def is_namespace_deleting(observed: ObservedObjects) -> bool:
    """Return whether an object was refused because the service's namespace is being deleted."""
    return observed.cache.parse(
        _has_refusal,
        parse_service(observed),
        observed.deployments,
        observed.replica_sets,
        observed.knative_services,
        observed.revisions,
    )


def _has_refusal(service: ParsedService, *children: tuple[Object, ...]) -> bool:
    message = f"in namespace {service.namespace} because it is being terminated"
    objects = [service.obj, *(o for objects in children for o in objects)]
    return any(
        message in str(condition.get("message") or "")
        for obj in objects
        for condition in get_list(obj, "status", "conditions")
    )
