"""Name what is waited for."""

from __future__ import annotations

from typing import TypeAlias

from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import (
    DeleteResponse,
    DeployResponse,
    GetResponse,
    WatchStatusRequest,
)

Rollout: TypeAlias = DeployResponse | GetResponse | DeleteResponse | InferenceService | str


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
