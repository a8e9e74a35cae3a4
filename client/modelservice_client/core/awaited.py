"""Name what is waited for."""

from __future__ import annotations

from typing import TypeAlias

from modelservice.v1.inference_service_pb2 import InferenceService, InferenceServiceSpec
from modelservice.v1.model_service_pb2 import (
    DeleteResponse,
    DeployResponse,
    GetResponse,
    WatchStatusRequest,
)

Rollout: TypeAlias = DeployResponse | GetResponse | DeleteResponse | InferenceService | str

# What a cluster allows a rollout that has no ready_timeout, mostly.
_CLUSTER_SECONDS = 600.0
# From the end of that time until the failure is known here. An object that is in the way fails a
# rollout after up to 90 s, however short its own time is.
_MARGIN_SECONDS = 120.0


def ready_seconds(spec: InferenceServiceSpec | None) -> float:
    """Return how long a rollout is waited for by default: until it has failed by its own deadline.

    A rollout is rolled back only once it has failed. None: its spec is not known.
    """
    own = spec is not None and spec.HasField("ready_timeout")
    seconds = spec.ready_timeout.ToTimedelta().total_seconds() if spec and own else _CLUSTER_SECONDS
    return seconds + _MARGIN_SECONDS


def spec_of(rollout: Rollout) -> InferenceServiceSpec | None:
    """Return the spec of what is waited for; None where only its name is given."""
    if isinstance(rollout, str):
        return None
    return (rollout if isinstance(rollout, InferenceService) else rollout.service).spec


def watch_request(rollout: Rollout, namespace: str, rollout_id: str) -> WatchStatusRequest:
    """Return the target of a wait. Raises ValueError for a response without a service."""
    if isinstance(rollout, str):
        return WatchStatusRequest(namespace=namespace, name=rollout, rollout_id=rollout_id)
    service = rollout if isinstance(rollout, InferenceService) else rollout.service
    if not service.name:
        raise ValueError("rollout must have a service; the response has none")
    deployed = rollout.rollout_id if isinstance(rollout, DeployResponse) else service.rollout_id
    return WatchStatusRequest(
        namespace=service.namespace, name=service.name, rollout_id=rollout_id or deployed
    )


def gone_request(rollout: Rollout, namespace: str, rollout_id: str) -> WatchStatusRequest | None:
    """Return the target of a wait for a deletion; None where nothing was there to delete."""
    if isinstance(rollout, DeleteResponse) and not rollout.HasField("service"):
        return None
    return watch_request(rollout, namespace, rollout_id)
