"""Find the remaining objects of a service that is being deleted or stopped, and describe them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from server.adapters.kserve.objects import Object, get_list, get_map, name_of
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import ParsedService
from server.domain.rollout.facts import RemainingObjects
from server.domain.wording import listed

# KServe's controller removes this finalizer as soon as it sees the deletionTimestamp.
KSERVE_FINALIZER = "inferenceservice.finalizers"
# Kubernetes' garbage collector removes these, the first once no child is left.
FOREGROUND = "foregroundDeletion"
_COLLECTORS = (FOREGROUND, "orphan")
_KSERVE = "KServe controller"
_COLLECTOR = "garbage collector (kube-controller-manager)"
# It discovers the kinds of a new cluster or a new CRD every 30 s.
_COLLECTOR_AFTER = timedelta(seconds=60)


def remaining_objects(service: ParsedService, observed: ObservedObjects) -> RemainingObjects | None:
    """Return the remaining objects of a service that is being deleted or stopped, or None."""
    if service.deleted_at:
        return _remaining_after_delete(service, service.deleted_at, observed)
    if service.stop_requested_at:
        idle = "" if service.is_true("Stopped") else _KSERVE
        return RemainingObjects(service.stop_requested_at, listed(_describe_all(observed)), idle)
    return None


def makes_pods(observed: ObservedObjects) -> bool:
    """Return whether an object is left for which Kubernetes or Knative would make a pod.

    One that is being deleted makes none.
    """
    scaled = (*observed.deployments, *observed.replica_sets)
    makers = (
        *(o for o in scaled if get_map(o, "spec").get("replicas") != 0),
        *observed.knative_services,
        *observed.revisions,
    )
    return not all(map(_is_deleted, makers))


def _remaining_after_delete(
    service: ParsedService, deleted_at: datetime, observed: ObservedObjects
) -> RemainingObjects:
    finalizers = get_list(service.obj, "metadata", "finalizers")
    others = [f"finalizer {f}" for f in finalizers if f not in _COLLECTORS]
    children = _describe_all(observed)
    own = [child for _, child in _children(observed) if _is_owned(child, service.uid)]
    idle = ""
    if KSERVE_FINALIZER in finalizers:
        idle = _KSERVE
    elif FOREGROUND in finalizers and own and not any(map(_is_deleted, own)):
        idle = _COLLECTOR
    description = list(filter(None, (listed(others), listed(children))))
    # Without KServe's webhook the garbage collector cannot remove its own finalizer.
    if FOREGROUND in finalizers and not children and not idle:
        description.append("children of kinds that ModelService does not follow, such as Services")
    remaining = "; ".join(description)
    if idle == _COLLECTOR:
        return RemainingObjects(deleted_at, remaining, idle, _COLLECTOR_AFTER)
    return RemainingObjects(deleted_at, remaining, idle)


def _describe_all(observed: ObservedObjects) -> list[str]:
    """Describe the children, first those with a foreign finalizer: the others wait for them."""
    children = sorted(_children(observed), key=lambda child: not _foreign_finalizers(child[1]))
    return [_describe(kind, child) for kind, child in children]


def _children(observed: ObservedObjects) -> Iterator[tuple[str, Object]]:
    """Yield the children, pods first, since pods may take time to end."""
    for kind, objects in (
        ("Pod", observed.pods),
        ("Knative Service", observed.knative_services),
        ("Deployment", observed.deployments),
        ("HorizontalPodAutoscaler", observed.autoscalers),
        ("Revision", observed.revisions),
        ("ReplicaSet", observed.replica_sets),
    ):
        yield from ((kind, o) for o in sorted(objects, key=name_of))


def _describe(kind: str, obj: Object) -> str:
    notes = []
    if foreign := _foreign_finalizers(obj):
        notes.append(listed([f"finalizer {f}" for f in foreign]))
    if kind == "Pod":
        ends = get_map(obj, "metadata").get("deletionTimestamp")
        node = get_map(obj, "spec").get("nodeName")
        end = f"to end by {ends}" if ends else "not being deleted"
        notes.append(f"{end} on node {node}" if node else end)
    elif not _is_deleted(obj):
        notes.append("not being deleted")
    return f"{kind} {name_of(obj)}" + (f" ({', '.join(notes)})" if notes else "")


def _foreign_finalizers(obj: Object) -> list[str]:
    return [str(f) for f in get_list(obj, "metadata", "finalizers") if f not in _COLLECTORS]


def _is_owned(obj: Object, uid: str) -> bool:
    return any(o.get("uid") == uid for o in get_list(obj, "metadata", "ownerReferences"))


def _is_deleted(obj: Object) -> bool:
    return bool(get_map(obj, "metadata").get("deletionTimestamp"))
