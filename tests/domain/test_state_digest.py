"""The digest of a state, by which resume tokens continue on other replicas and releases."""

from __future__ import annotations

from datetime import UTC, datetime

from server.domain.rollout.status import (
    Component,
    ComponentStatus,
    Condition,
    Failure,
    FailureReason,
    InferenceServiceStatus,
    State,
    TrafficShare,
)
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.state_digest import remembered_digest, state_digest

NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
STATUS = InferenceServiceStatus(
    state=State.DEGRADED,
    message="the container exits, its last log line: no such file",
    serving=True,
    latest_ready_generation=2,
    failure=Failure(
        reason=FailureReason.CRASH_LOOP,
        message="exited with 1, its last log line: no such file",
        remedy="see the log",
        retrying=True,
        rollout_id="b64",
        component=Component.PREDICTOR,
        pod="iris-1",
        container="kserve-container",
        exit_code=1,
        restart_count=4,
        log_lines=("no such file",),
        first_seen_time=NOON,
        container_text="no such file",
    ),
    url="http://iris.example",
    cluster_url="http://iris.team.svc",
    serving_runtime="mlserver",
    deployment_mode="Standard",
    components=(
        ComponentStatus(Component.PREDICTOR, 2, 1, 1, "iris-7f", (TrafficShare("iris-7f", 100),)),
    ),
    conditions=(Condition("Ready", "False", "Größe", 'a "quoted" message', NOON),),
    last_transition_time=NOON,
)
SERVICE = InferenceService(
    key=ServiceKey("team", "iris"),
    uid="0581fa5a",
    generation=3,
    spec=None,
    status=STATUS,
    etag="e7",
    create_time=NOON,
    selectable_labels={"team": "forecasting", "app": "iris"},
    delete_time=NOON,
    unmanaged=True,
    deployment_id="d1",
    spec_writer="kubectl",
)


def test_tokens_of_an_earlier_release_stay_valid() -> None:
    assert state_digest(SERVICE) == "e09de869732bba08"
    assert remembered_digest(SERVICE) == "ca24834f"
