"""Objects of others that have a name which KServe or Knative needs for a service.

KServe takes over what it can, whoever made it: it fails at a Deployment with another selector,
which nothing can change, and at what somebody else controls. Knative takes over nothing, and says
so in the condition of what was to be made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.modes import KNATIVE, mode_of
from server.adapters.kserve.names import KIND
from server.adapters.kserve.objects import Object, controller_of, get_list, get_map, name_of, uid_of
from server.adapters.kserve.status.components import child_of, component_specs
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Component, Failure, FailureReason

NOT_OWNED = "NotOwned"
# Words may quote whole objects, and are searched at each event.
_MOST_SEARCHED = 2000
_MOST_SHOWN = 300

# All that KServe and Knative make for a service.
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
# The API server names kinds where an object is invalid, and resources where one exists.
_KIND_OF = {_PLURALS.get(kind, f"{kind.lower()}s"): kind for kind in _KINDS} | {
    kind: kind for kind in _KINDS
}
_KIND = rf"(?P<kind>{'|'.join(_KIND_OF)})"
_NAME = '(?P<name>[^"]{1,253})'
# Such as `Deployment.apps "iris"`. No part of it begins where another may: one pass over the text.
_OBJECT = rf'(?<![\w.-]){_KIND}(?:\.[\w.-]{{1,253}})? "{_NAME}"'
_CONFLICTS = (
    re.compile(rf'existing (?:placeholder )?{_KIND} "{_NAME}" that we do not own'),
    re.compile(rf"Resource (?P<name>\S{{1,253}}) of type {_KIND} is not owned by"),
    re.compile(rf"{_OBJECT} already exists"),
)
_INVALID = re.compile(rf"{_OBJECT} is invalid: ")
# In this order: a field, and what is wrong with it.
_INVALID_BY_CONFLICT = (
    ("spec.selector: ", "field is immutable"),
    ("metadata.ownerReferences: ", "Only one reference can have Controller set"),
)
_OWNER = r"\w{1,63}/\S{1,253}"
_CONTROLLERS = re.compile(rf"in references for ({_OWNER}) and {_OWNER}")


@dataclass(frozen=True, slots=True)
class NameConflict:
    """An object that stands in the way; `owner`: what controls it, as KIND/NAME, where known."""

    kind: str
    name: str
    owner: str = ""
    words: str = ""

    def failure(self, since: datetime | None, component: Component | None = None) -> Failure:
        """Say what stands in the way, and what to do about it."""
        of = f", which belongs to {self.owner}," if self.owner else ""
        words = f": {self.words[:_MOST_SHOWN]}" if self.words else ""
        return failure_of(
            FailureReason.RECONCILE_FAILED,
            f"the {self.kind} {self.name}{of} has the name that this service needs and was not made"
            f" for it{words}",
            remedy=f"delete the {self.kind} {self.name} if nobody needs it, or deploy under another"
            " name",
            component=component,
            first_seen_time=since,
        )


def conflict_in(words: str) -> NameConflict | None:
    """Read which object stands in the way from the words of KServe, Knative or Kubernetes.

    Not for words that a container wrote: they may look like such a conflict.
    """
    searched = words[:_MOST_SEARCHED]
    matches = (pattern.search(searched) for pattern in _CONFLICTS)
    found = next(filter(None, matches), None) or _invalid_by_conflict(searched)
    if found is None:
        return None
    controllers = _CONTROLLERS.search(searched)
    # Kubernetes names the controller that was there first.
    owner = controllers[1] if controllers else ""
    return NameConflict(_KIND_OF[found["kind"]], found["name"], owner, words)


def _invalid_by_conflict(words: str) -> re.Match[str] | None:
    found = _INVALID.search(words)
    if found is None:
        return None
    for field, problem in _INVALID_BY_CONFLICT:
        at = words.find(field, found.end())
        if at >= 0 and words.find(problem, at) >= 0:
            return found
    return None


def foreign_knative_service(observed: ObservedObjects) -> NameConflict | None:
    """Find a Knative Service that KServe writes a component into although another made it.

    KServe does not make itself its controller, so that it neither follows nor deletes it.
    """
    if mode_of(observed.service) != KNATIVE:
        return None
    uid = uid_of(observed.service)
    for which in component_specs(observed.service):
        found = child_of(observed.knative_services, which.deployments[0])
        owner = _controller_name(found)
        # That of a service of this name that is gone goes too.
        going = owner.startswith(f"{KIND}/") or "deletionTimestamp" in get_map(found, "metadata")
        if found and controller_of(found) != uid and not going:
            return NameConflict("Knative Service", name_of(found), owner)
    return None


def is_own(conflict: NameConflict, observed: ObservedObjects) -> bool:
    """Whether KServe itself made the Deployment that it cannot change, for this very service."""
    if conflict.kind != "Deployment":
        return False
    found = next((d for d in observed.deployments if name_of(d) == conflict.name), {})
    return controller_of(found) == uid_of(observed.service)


def _controller_name(obj: Object) -> str:
    owners = get_list(obj, "metadata", "ownerReferences")
    return next((f"{o.get('kind')}/{o.get('name')}" for o in owners if o.get("controller")), "")
