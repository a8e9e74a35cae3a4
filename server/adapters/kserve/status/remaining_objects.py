"""Name what is left of a service that is being deleted or stopped, and who has not acted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from server.adapters.kserve.objects import (
    Object,
    get_list,
    get_map,
    is_condition_true,
    name_of,
    parse_time,
    uid_of,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.facts import RemainingObjects
from server.domain.service.commands import STOP_ANNOTATION
from server.domain.wording import listed

# KServe's controller takes this one away as soon as it sees the mark of deletion.
KSERVE_FINALIZER = "inferenceservice.finalizers"
# Kubernetes' garbage collector takes these away, the first once no child is left.
FOREGROUND = "foregroundDeletion"
_COLLECTORS = (FOREGROUND, "orphan")
_KSERVE = "KServe controller"
_COLLECTOR = "garbage collector (kube-controller-manager)"
# It learns of a new cluster's or a new CRD's kinds every 30 s.
_COLLECTOR_AFTER = timedelta(seconds=60)


def remains_of_deletion(observed: ObservedObjects) -> RemainingObjects | None:
    """Name what is left of a service that is being deleted; None if it is not."""
    since = parse_time(get_map(observed.service, "metadata").get("deletionTimestamp"))
    if since is None:
        return None
    finalizers = get_list(observed.service, "metadata", "finalizers")
    others = [f"finalizer {f}" for f in finalizers if f not in _COLLECTORS]
    children = list(_children(observed))
    left = list(filter(None, (listed(others), listed(children))))
    idle = _idle_while_deleting(observed, finalizers)
    # Without KServe's webhook the garbage collector cannot take its own finalizer away.
    if FOREGROUND in finalizers and not children and not idle:
        left.append("children of kinds that ModelService does not follow, such as Services")
    remaining = RemainingObjects(since, "; ".join(left), idle)
    return replace(remaining, idle_after=_COLLECTOR_AFTER) if idle == _COLLECTOR else remaining


def remains_of_stop(observed: ObservedObjects) -> RemainingObjects | None:
    """Name what is left of a service that is being stopped; None if nobody asked for that."""
    since = _stop_asked_at(observed.service)
    if since is None:
        return None
    stopped = is_condition_true(observed.service, "Stopped")
    return RemainingObjects(since, listed(list(_children(observed))), "" if stopped else _KSERVE)


def _stop_asked_at(service: Object) -> datetime | None:
    """When the annotation was last written, by its manager's entry in managedFields."""
    written = (
        parse_time(entry.get("time"))
        for entry in get_list(service, "metadata", "managedFields")
        if f"f:{STOP_ANNOTATION}" in get_map(entry, "fieldsV1", "f:metadata", "f:annotations")
    )
    return max((at for at in written if at), default=None)


def _idle_while_deleting(observed: ObservedObjects, finalizers: Sequence[str]) -> str:
    """Name the controller that has not done its part of a deletion; empty if each has."""
    if KSERVE_FINALIZER in finalizers:
        return _KSERVE
    owner = uid_of(observed.service)
    own = [child for _, child in _made(observed) if _is_owned(child, owner)]
    if FOREGROUND in finalizers and own and not any(map(_is_marked, own)):
        return _COLLECTOR
    return ""


def _children(observed: ObservedObjects) -> Iterator[str]:
    """Those that a foreign finalizer holds come first: the others wait for them."""
    made = list(_made(observed))
    held = [(kind, o) for kind, o in made if _foreign_finalizers(o)]
    yield from (_described(kind, o) for kind, o in held)
    yield from (_described(kind, o) for kind, o in made if not _foreign_finalizers(o))


def _made(observed: ObservedObjects) -> Iterator[tuple[str, Object]]:
    """Pods first, since they take time by right."""
    for kind, objects in (
        ("Pod", observed.pods),
        ("Knative Service", observed.knative_services),
        ("Deployment", observed.deployments),
        ("HorizontalPodAutoscaler", observed.autoscalers),
        ("Revision", observed.revisions),
        ("ReplicaSet", observed.replica_sets),
    ):
        yield from ((kind, o) for o in sorted(objects, key=name_of))


def _described(kind: str, obj: Object) -> str:
    notes = []
    if foreign := _foreign_finalizers(obj):
        notes.append(listed([f"finalizer {f}" for f in foreign]))
    if kind == "Pod":
        notes.append(_end_of(obj))
    elif not _is_marked(obj):
        notes.append("not being deleted")
    return f"{kind} {name_of(obj)}" + (f" ({', '.join(notes)})" if notes else "")


def _end_of(pod: Object) -> str:
    ends = get_map(pod, "metadata").get("deletionTimestamp")
    node = get_map(pod, "spec").get("nodeName")
    where = f" on node {node}" if node else ""
    return f"to end by {ends}{where}" if ends else f"not being deleted{where}"


def _foreign_finalizers(obj: Object) -> list[str]:
    return [str(f) for f in get_list(obj, "metadata", "finalizers") if f not in _COLLECTORS]


def _is_owned(obj: Object, uid: str) -> bool:
    return any(o.get("uid") == uid for o in get_list(obj, "metadata", "ownerReferences"))


def _is_marked(obj: Object) -> bool:
    return bool(get_map(obj, "metadata").get("deletionTimestamp"))
