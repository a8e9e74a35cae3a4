"""When a cluster first shows what is wrong with a service, and when KServe says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .namespace_watch import Object, Sight

SERVICE_LABEL = "serving.kserve.io/inferenceservice"
Symptom = Callable[[Sight], bool]

_NO_FAULT = (None, "", "ContainerCreating", "PodInitializing")
# What KServe's conditions say of every service that is not ready, whatever the cause.
_NO_CAUSE = (
    "",
    "MinimumReplicasUnavailable",
    "PredictorNotReady",
    "ReplicaSetUpdated",
    "RevisionMissing",
    "PredictorConfigurationReady not ready",
    "PredictorRouteReady not ready",
)
# Of Knative: the cause is in its words.
_FAILED_REVISION = "RevisionFailed"


def about(name: str, sights: Iterable[Sight]) -> list[Sight]:
    """Those of the service of this name, its pods and the events about them."""
    return [s for s in list(sights) if _service_of(s) == name]


def pod_in_trouble(sight: Sight) -> bool:
    """A container that waits for a bad reason or has ended, a pod without a node or put out, or
    none at all, since Kubernetes may not make one."""
    status = sight.object.get("status", {})
    if sight.kind == "replica_set":
        return _condition(status, "ReplicaFailure").get("status") == "True"
    if sight.kind != "pod":
        return False
    return (
        _condition(status, "PodScheduled").get("status") == "False"
        or status.get("phase") == "Failed"
        or any(_has_ended_badly(s) for s in status.get("initContainerStatuses") or ())
        or any(_is_in_trouble(s) for s in status.get("containerStatuses") or ())
    )


def pod_initialises(sight: Sight) -> bool:
    """A pod of which an init container runs."""
    statuses = sight.object.get("status", {}).get("initContainerStatuses") or ()
    return sight.kind == "pod" and any("running" in s.get("state", {}) for s in statuses)


def warned_of(reason: str) -> Symptom:
    """A warning event of this reason."""
    return lambda sight: sight.kind == "event" and sight.object.get("reason") == reason


def cause_by_kserve(service: Object) -> str:
    """What the InferenceService's own status gives as the cause; empty while it gives none."""
    status = service.get("status", {})
    failed = status.get("modelStatus", {}).get("lastFailureInfo")
    if failed:
        code = f", exit code {failed['exitCode']}" if "exitCode" in failed else ""
        return f"{failed.get('reason', '')}{code}"
    told = (c for c in status.get("conditions", ()) if c["status"] == "False")
    causes = [c for c in told if c.get("reason", "") not in _NO_CAUSE]
    return _cause(causes[0]) if causes else ""


def _cause(condition: Object) -> str:
    reason = str(condition["reason"])
    return f"{reason}: {condition['message']}" if reason == _FAILED_REVISION else reason


def _service_of(sight: Sight) -> str:
    metadata = sight.object["metadata"]
    if sight.kind == "service":
        return str(metadata["name"])
    if sight.kind == "event":
        return str(sight.object["involvedObject"].get("name", "")).split("-predictor")[0]
    return str(metadata.get("labels", {}).get(SERVICE_LABEL, ""))


def _is_in_trouble(status: dict[str, Any]) -> bool:
    return bool(status.get("state", {}).get("terminated")) or _has_ended_badly(status)


def _has_ended_badly(status: dict[str, Any]) -> bool:
    state = status.get("state", {})
    return bool(
        state.get("waiting", {}).get("reason") not in _NO_FAULT
        or state.get("terminated", {}).get("exitCode")
        or status.get("lastState", {}).get("terminated")
    )


def _condition(status: Object, kind: str) -> Object:
    found = (c for c in status.get("conditions") or () if c["type"] == kind)
    return next(found, {})
