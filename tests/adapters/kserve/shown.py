"""Recorded services, changed in the one point that a test is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from server.adapters.kserve.objects import name_of, uid_of
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.service_status import facts_of
from server.adapters.kserve.status.staleness import StalenessCheck
from server.domain.rollout.facts import Facts
from server.domain.rollout.state_table import Decision, decide
from tests.adapters.kserve.replaying import merged, recording

Object = dict[str, Any]


def when(name: str, holds: Callable[[ObservedObjects], object]) -> tuple[ObservedObjects, datetime]:
    """The first objects of a recording for which this holds, and their time."""
    played = recording(name)
    return next((o, played.at(at)) for at, o in played.states() if o and holds(o))


def beginning(name: str) -> tuple[ObservedObjects, datetime]:
    """The first objects of a recording."""
    return when(name, bool)


def end(name: str) -> tuple[ObservedObjects, datetime]:
    """The last objects of a recording."""
    played = recording(name)
    *_, (_, observed) = played.states()
    assert observed
    return observed, played.at(played.lasted)


def starting() -> tuple[ObservedObjects, datetime]:
    """A first rollout whose only pod runs, is not ready yet, and is in all counts."""
    return when("slow", lambda o: _runs(o) and _counted(o))


def serving() -> tuple[ObservedObjects, datetime]:
    """A rollout of a container that has been READY for a while."""
    observed, now = end("ready")
    return observed, now + timedelta(seconds=60)


def serving_model() -> tuple[ObservedObjects, datetime]:
    """The same of a model predictor."""
    observed, now = end("ready_model")
    return observed, now + timedelta(seconds=60)


def _runs(observed: ObservedObjects) -> bool:
    return any(p["status"]["phase"] == "Running" for p in observed.pods)


def _counted(observed: ObservedObjects) -> bool:
    return any(d["status"].get("updatedReplicas") for d in observed.deployments)


def facts(observed: ObservedObjects, now: datetime, *, lasting: int = 0) -> Facts:
    """The facts of a service whose objects have been so for `lasting` seconds."""
    staleness = StalenessCheck().updated(observed, now - timedelta(seconds=lasting))
    return facts_of(observed, staleness.updated(observed, now), now)


def verdict(observed: ObservedObjects, now: datetime, *, lasting: int = 0) -> Decision:
    """The decision on it."""
    return decide(facts(observed, now, lasting=lasting))


def with_service(observed: ObservedObjects, patch: Object) -> ObservedObjects:
    """With a merge patch of the InferenceService."""
    return replace(observed, service=merged(observed.service, patch))


def with_pods(observed: ObservedObjects, patch: Object) -> ObservedObjects:
    """With a merge patch of every pod."""
    return replace(observed, pods=tuple(merged(p, patch) for p in observed.pods))


def with_deployment(observed: ObservedObjects, patch: Object) -> ObservedObjects:
    """With a merge patch of every Deployment."""
    return replace(observed, deployments=tuple(merged(d, patch) for d in observed.deployments))


def with_pod_condition(observed: ObservedObjects, kind: str, **fields: object) -> ObservedObjects:
    """With a condition of every pod changed, or added."""
    return replace(observed, pods=tuple(_conditioned(p, kind, fields) for p in observed.pods))


def with_condition(observed: ObservedObjects, kind: str, **fields: object) -> ObservedObjects:
    """With a condition of the InferenceService changed, or added."""
    return replace(observed, service=_conditioned(observed.service, kind, fields))


def with_deployment_condition(
    observed: ObservedObjects, kind: str, **fields: object
) -> ObservedObjects:
    """With a condition of every Deployment changed, or added."""
    changed = tuple(_conditioned(d, kind, fields) for d in observed.deployments)
    return replace(observed, deployments=changed)


def deadline_passed(observed: ObservedObjects, at: datetime, *, of: str = "") -> ObservedObjects:
    """With the ReplicaSet named `of`, else its own, past the Deployment's progress deadline."""
    replica_set = of or name_of(observed.replica_sets[0])
    return with_deployment_condition(
        observed,
        "Progressing",
        status="False",
        reason="ProgressDeadlineExceeded",
        message=f'ReplicaSet "{replica_set}" has timed out progressing.',
        lastTransitionTime=stamp(at),
    )


def with_container(
    observed: ObservedObjects, *, ready: bool = False, **status: object
) -> ObservedObjects:
    """With the state of every pod's only container as given, and the pod's readiness with it."""

    def changed(pod: Object) -> Object:
        old = pod["status"]["containerStatuses"][0]
        new = {**old, "state": {}, "lastState": {}, "ready": ready, **status}
        return merged(pod, {"status": {"containerStatuses": [new]}})

    observed = replace(observed, pods=tuple(changed(dict(p)) for p in observed.pods))
    reason = None if ready else "ContainersNotReady"
    for kind in ("Ready", "ContainersReady"):
        observed = with_pod_condition(observed, kind, status=str(ready), reason=reason)
    return observed


def ended(
    code: int, at: datetime, *, ran: float = 10, reason: str = "Error", message: str = ""
) -> Object:
    """A container's end."""
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": stamp(at - timedelta(seconds=ran)),
            "finishedAt": stamp(at),
        }
    }


def waiting(reason: str, message: str = "") -> Object:
    """A container that waits."""
    return {"waiting": {"reason": reason, "message": message}}


def running(since: datetime) -> Object:
    """A container that runs."""
    return {"running": {"startedAt": stamp(since)}}


def warning(about: Object, reason: str, message: str, at: datetime, *, count: int = 1) -> Object:
    """A warning event about an object."""
    return {
        "metadata": {"uid": f"{reason} about {uid_of(about)}"},
        "involvedObject": {"uid": uid_of(about)},
        "reason": reason,
        "message": message,
        "count": count,
        "firstTimestamp": stamp(at),
        "lastTimestamp": stamp(at),
    }


def stamp(at: datetime) -> str:
    """The moment as Kubernetes writes it: in whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditioned(obj: Any, kind: str, fields: Object) -> Object:
    conditions = obj.get("status", {}).get("conditions", [])
    old = next((c for c in conditions if c["type"] == kind), {"type": kind})
    others = [c for c in conditions if c["type"] != kind]
    return dict(merged(obj, {"status": {"conditions": [*others, {**old, **fields}]}}))
