"""Find foreign objects that have the name of an object that KServe or Knative must create.

KServe adopts an existing object if it can. It fails at a Deployment with another selector, which is
immutable, and at an object with another controller. Knative adopts nothing, and reports that in
the condition of the object that it was to create.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.names import KIND
from server.adapters.kserve.objects import Object, controller_of, get_list, get_map, name_of, uid_of
from server.adapters.kserve.status.components import ComponentSpec, find_child
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Component, Failure, FailureReason

NOT_OWNED = "NotOwned"
# Messages may quote whole objects, and are searched at each event.
_LONGEST_SEARCHED = 2000
_LONGEST_MESSAGE = 300

# The kinds that KServe and Knative create for a service.
_KINDS = (
    "Certificate",
    "ConfigMap",
    "Configuration",
    "Deployment",
    "Endpoints",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "Image",
    "InferencePool",
    "Ingress",
    "Job",
    "LeaderWorkerSet",
    "Metric",
    "OpenTelemetryCollector",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodAutoscaler",
    "ReplicaSet",
    "ResourceClaimTemplate",
    "Revision",
    "Role",
    "RoleBinding",
    "Route",
    "ScaledObject",
    "Secret",
    "ServerlessService",
    "Service",
    "ServiceAccount",
    "StatefulSet",
    "VirtualService",
)
_PLURALS = {"Endpoints": "endpoints", "Ingress": "ingresses"}
# The API server names the kind of an invalid object, and the resource of an existing one.
_KIND_OF = {_PLURALS.get(kind, f"{kind.lower()}s"): kind for kind in _KINDS} | {
    kind: kind for kind in _KINDS
}
_KIND = rf"(?P<kind>{'|'.join(_KIND_OF)})"
_NAME = '(?P<name>[^"]{1,253})'
# Such as `Deployment.apps "iris"`. No two parts can match the same text: one pass is enough.
_OBJECT = rf'(?<![\w.-]){_KIND}(?:\.[\w.-]{{1,253}})? "{_NAME}"'
_CONFLICTS = (
    re.compile(rf'existing (?:placeholder )?{_KIND} "{_NAME}" that we do not own'),
    re.compile(rf"Resource (?P<name>\S{{1,253}}) of type {_KIND} is not owned by"),
    re.compile(rf"{_OBJECT} already exists"),
)
_INVALID = re.compile(rf"{_OBJECT} is invalid: ")
# Pairs of a field and the problem with it.
_INVALID_BY_CONFLICT = (
    ("spec.selector: ", "field is immutable"),
    ("metadata.ownerReferences: ", "Only one reference can have Controller set"),
)
_OWNER = r"\w{1,63}/\S{1,253}"
_CONTROLLERS = re.compile(rf"in references for ({_OWNER}) and {_OWNER}")


@dataclass(frozen=True, slots=True)
class NameConflict:
    """Hold the foreign object. `owner`: its controller as KIND/NAME, if known."""

    kind: str
    name: str
    owner: str = ""
    message: str = ""

    def failure(self, since: datetime | None, component: Component | None = None) -> Failure:
        """Return the conflict as a failure that callers see."""
        of = f", which belongs to {self.owner}," if self.owner else ""
        message = f": {self.message[:_LONGEST_MESSAGE]}" if self.message else ""
        return failure_of(
            FailureReason.RECONCILE_FAILED,
            f"the {self.kind} {self.name}{of} has the name that this service needs and was not"
            f" created for it{message}",
            remedy=f"delete the {self.kind} {self.name} if nobody needs it, or deploy under another"
            " name",
            component=component,
            first_seen_time=since,
        )


def conflict_in(message: str) -> NameConflict | None:
    """Parse the foreign object out of a message of KServe, Knative or Kubernetes.

    Not for text that a container wrote, which may look like such a conflict.
    """
    searched = message[:_LONGEST_SEARCHED]
    matches = (pattern.search(searched) for pattern in _CONFLICTS)
    found = next(filter(None, matches), None) or _invalid_by_conflict(searched)
    if found is None:
        return None
    controllers = _CONTROLLERS.search(searched)
    # Kubernetes names the controller that was there first.
    owner = controllers[1] if controllers else ""
    return NameConflict(_KIND_OF[found["kind"]], found["name"], owner, message)


def _invalid_by_conflict(message: str) -> re.Match[str] | None:
    found = _INVALID.search(message)
    if found is None:
        return None
    for field, problem in _INVALID_BY_CONFLICT:
        start = message.find(field, found.end())
        if start >= 0 and message.find(problem, start) >= 0:
            return found
    return None


def foreign_knative_service(
    components: Iterable[ComponentSpec], owner_uid: str, knative_services: Sequence[Object]
) -> NameConflict | None:
    """Find a foreign Knative Service that KServe updates as if it were a component's own.

    KServe does not become its controller, and so neither watches nor deletes it.
    """
    for component in components:
        found = find_child(knative_services, component.deployments[0])
        owner = _controller_name(found)
        # That of a deleted InferenceService of this name is being deleted as well.
        deleting = owner.startswith(f"{KIND}/") or "deletionTimestamp" in get_map(found, "metadata")
        if found and controller_of(found) != owner_uid and not deleting:
            return NameConflict("Knative Service", name_of(found), owner)
    return None


def is_own(conflict: NameConflict, observed: ObservedObjects) -> bool:
    """Return whether KServe created the Deployment that it cannot change for this service."""
    if conflict.kind != "Deployment":
        return False
    found = next((d for d in observed.deployments if name_of(d) == conflict.name), {})
    return controller_of(found) == uid_of(observed.service)


def _controller_name(obj: Object) -> str:
    owners = get_list(obj, "metadata", "ownerReferences")
    return next((f"{o.get('kind')}/{o.get('name')}" for o in owners if o.get("controller")), "")
