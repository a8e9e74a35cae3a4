"""How a service in memory is: what KServe would have come to show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import (
    Component,
    ComponentStatus,
    FailureReason,
    InferenceServiceStatus,
    State,
)
from server.domain.service.commands import STOP_ANNOTATION, is_stop_requested
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    ModelPredictor,
)

# Images of rollouts that fail begin with it.
FAILING = "failing.example/"


def settled(service: InferenceService) -> InferenceServiceStatus:
    """The end of a rollout: READY, FAILED by its image, or STOPPED where the annotation asks for
    that."""
    if is_stop_requested(service.annotations):
        message = f"stopped by the annotation {STOP_ANNOTATION}"
        status = replace(service.status, state=State.STOPPED, message=message, serving=False)
    elif _fails(service):
        message = "the image is not there"
        failure = failure_of(FailureReason.IMAGE_PULL, message)
        failure = replace(failure, rollout_id=service.rollout.id)
        state = State.DEGRADED if service.status.serving else State.FAILED
        status = replace(service.status, state=state, message=message, failure=failure)
        return replace(status, last_transition_time=datetime.now(UTC))
    else:
        status = _ready(service)
    return replace(status, failure=None, last_transition_time=datetime.now(UTC))


def _fails(service: InferenceService) -> bool:
    predictor = service.spec.serving if service.spec else None
    return isinstance(predictor, ContainerPredictor) and predictor.image.startswith(FAILING)


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
