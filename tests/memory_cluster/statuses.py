"""How a service in memory is: what KServe would have come to show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from server.domain.rollout.status import Component, ComponentStatus, InferenceServiceStatus, State
from server.domain.service.commands import STOP_ANNOTATION, is_stop_requested
from server.domain.service.inference_service import InferenceService, ModelPredictor


def settled(service: InferenceService) -> InferenceServiceStatus:
    """The end of a good rollout: READY, or STOPPED where the annotation asks for that."""
    if is_stop_requested(service.annotations):
        message = f"stopped by the annotation {STOP_ANNOTATION}"
        status = replace(service.status, state=State.STOPPED, message=message, serving=False)
    else:
        status = _ready(service)
    return replace(status, failure=None, last_transition_time=datetime.now(UTC))


def deleting(service: InferenceService) -> InferenceServiceStatus:
    """From the Delete until it is gone."""
    return replace(
        service.status,
        state=State.DELETING,
        message="waiting for its pods to be gone",
        last_transition_time=datetime.now(UTC),
    )


def _ready(service: InferenceService) -> InferenceServiceStatus:
    spec = service.spec
    replicas = max(1, spec.scaling.min_replicas or 1) if spec else 1
    runtime = spec.serving.runtime if spec and isinstance(spec.serving, ModelPredictor) else ""
    return InferenceServiceStatus(
        State.READY,
        serving=True,
        latest_ready_generation=service.generation,
        cluster_url=f"http://{service.key.name}.{service.key.namespace}.svc.cluster.local",
        serving_runtime=runtime,
        deployment_mode="Standard",
        components=(
            ComponentStatus(
                Component.PREDICTOR,
                desired_replicas=replicas,
                updated_replicas=replicas,
                ready_replicas=replicas,
                latest_revision=f"{service.key.name}-predictor-{service.generation}",
            ),
        ),
    )
