"""The rows in the dumps of `released`, as they are read by this release."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from server.domain.registry.deployment import DeploymentState, DesiredState, ModelDeployment
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import Component, Failure, FailureReason
from server.domain.service.inference_service import (
    ModelFormat,
    Resources,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    ServingOptions,
    Toleration,
)

_THEN = datetime(2026, 11, 22, 21, 30, 0, 123456, tzinfo=UTC)
_LATER = _THEN + timedelta(minutes=5)
_DESCRIBED = {"create_time": _THEN, "update_time": _LATER, "labels": {"team": "risk"}}

MODEL = RegisteredModel(
    ModelKey("risk", "fraud"),
    id="model-1",
    default_version="2",
    description="it's \u00e4 model",
    etag="e1",
    **_DESCRIBED,
)
FILES = ModelVersion(
    VersionKey("risk", "fraud", "1"),
    id="version-1",
    storage_uri="s3://models/fraud/1",
    format=ModelFormat("sklearn", "1"),
    state=VersionState.ARCHIVED,
    metadata={"run": "a", "scores": [0.5, 1.0, None], "deep": {"er": True}},
    etag="e2",
    **_DESCRIBED,
)
IMAGE = ModelVersion(
    VersionKey("risk", "fraud", "2"),
    id="version-2",
    image="registry.example/fraud:2",
    etag="e3",
    **_DESCRIBED,
)
ENVIRONMENT = ServingEnvironment(
    EnvironmentKey("risk", "staging"),
    id="environment-1",
    namespace="risk-staging",
    defaults=ServingOptions(
        env={"A": "1"},
        secret_env={"B": SecretKeyRef("s", "k")},
        resources=Resources({"cpu": "100m"}, {"memory": "1Gi"}),
        scaling=Scaling(1, 3, 10, "rps"),
        service_account="account",
        image_pull_policy="Always",
        deployment_mode="Standard",
        node_selector={"gpu": "yes"},
        tolerations=(Toleration("gpu", "Exists", "", "NoExecute", 60),),
        request_timeout=timedelta(seconds=2.5),
    ),
    etag="e4",
    **_DESCRIBED,
)
_NAMES = {
    "project": "risk",
    "model": "fraud",
    "environment": "staging",
    "model_id": "model-1",
    "environment_id": "environment-1",
    "service": ServiceKey("risk-staging", "fraud-staging"),
    "create_time": _THEN,
    "update_time": _LATER,
}
SUPERSEDED = ModelDeployment(
    id="deployment-1",
    version="1",
    version_id="version-1",
    content="c1",
    rollout=Rollout("uid-1", 1),
    state=DeploymentState.SUPERSEDED,
    url="http://fraud.example",
    failure=Failure(
        FailureReason.CRASH_LOOP,
        "it crashed",
        remedy="look at its log",
        rollout_id=Rollout("uid-1", 1).id,
        component=Component.PREDICTOR,
        pod="p",
        container="c",
        exit_code=1,
        restart_count=2,
        log_lines=("one", "two"),
        retrying=True,
        first_seen_time=_THEN,
        # The release did not keep which part of the message a container wrote.
        container_text="it crashed",
    ),
    caller="somebody",
    ready_time=_THEN,
    end_time=_LATER,
    **_NAMES,
)
REFUSED = ModelDeployment(
    id="deployment-2",
    version="1",
    version_id="version-1",
    content="c2",
    desired_state=DesiredState.UNDEPLOYED,
    state=DeploymentState.FAILED,
    error_reason="QUOTA_EXCEEDED",
    error_message="no room",
    end_time=_LATER,
    **_NAMES,
)
OPEN = ModelDeployment(
    id="deployment-3",
    version="2",
    version_id="version-2",
    content="c3",
    **_NAMES,
)

THINGS = (MODEL, FILES, IMAGE, ENVIRONMENT, SUPERSEDED, REFUSED, OPEN)
