"""What a full node and a slow model need: a strategy that makes room, and a time to be ready."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from modelservice.v1.inference_service_pb2 import InferenceService, Resources, RolloutStrategy
from modelservice.v1.model_service_pb2 import DeployResponse
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab, images
from server.domain.kubernetes.quantities import value
from tests.cluster.asking import Reason, Spec, State, deploy, wait_ready
from tests.cluster.recording import Recording, Until
from tests.refusals import Refusal

from .failures import custom, server

RECREATE = RolloutStrategy(type=RolloutStrategy.TYPE_RECREATE)
# A model server ends 8 s after it is told to; ten times what a rollout then takes.
LIMIT = 180.0


@dataclass
class Rollouts:
    """The rollouts of one service."""

    stub: ModelServiceStub
    namespace: str
    name: str = "iris"

    def deploy(self, spec: Spec) -> DeployResponse:
        return deploy(self.stub, self.namespace, self.name, spec)

    def ready(self, spec: Spec) -> InferenceService:
        answer = self.deploy(spec)
        return wait_ready(self.stub, self.namespace, self.name, answer.rollout_id)

    def refused(self, answer: DeployResponse) -> Refusal:
        """How the wait for a rollout that does not become READY ends."""
        rollout_id = answer.rollout_id
        waited = Recording(
            self.stub, self.namespace, self.name, until=Until.UNTIL_READY, rollout_id=rollout_id
        )
        refusal = waited.end(LIMIT)
        assert refusal is not None
        assert refusal.reason == "ROLLOUT_FAILED"
        assert refusal.failure.rollout_id == rollout_id
        return refusal


@pytest.fixture
def rollouts(stub: ModelServiceStub, namespace: str) -> Rollouts:
    return Rollouts(stub, namespace)


def seconds(number: int) -> Duration:
    return Duration(seconds=number)


def version(lab: NodeLab, number: int, **fields: Any) -> Spec:
    """A model server that takes more than half of the node, so that one finds room."""
    [node] = lab.get("/api/v1/nodes")["items"]
    share = float(value(node["status"]["allocatable"]["cpu"])) * 0.6
    resources = Resources(requests={"cpu": f"{share * 1000:.0f}m", "memory": "32Mi"})
    return server("--version", str(number), resources=resources, **fields)


@pytest.mark.timeout(600)
def test_where_one_replica_finds_room_an_update_that_recreates_becomes_ready(
    node_lab: NodeLab, rollouts: Rollouts
) -> None:
    rollouts.ready(version(node_lab, 1))
    update = rollouts.deploy(version(node_lab, 2, ready_timeout=seconds(10)))
    heard = Recording(rollouts.stub, rollouts.namespace, rollouts.name)

    def waits_beside_the_older_one(service: InferenceService) -> bool:
        # A scheduler that is slow names the cause only after the time is over.
        status = service.status
        return (
            status.state == State.STATE_DEGRADED
            and status.serving
            and status.failure.reason == Reason.REASON_UNSCHEDULABLE
            and status.failure.rollout_id == update.rollout_id
            and "TYPE_RECREATE" in status.failure.remedy
        )

    heard.wait(waits_beside_the_older_one, "it waits for room, and the remedy makes some", LIMIT)
    heard.close()
    rollouts.ready(version(node_lab, 2, rollout_strategy=RECREATE))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_an_update_that_has_waited_for_room_goes_on_once_its_strategy_alone_is_changed(
    node_lab: NodeLab, rollouts: Rollouts
) -> None:
    rollouts.ready(version(node_lab, 1))
    failure = rollouts.refused(rollouts.deploy(version(node_lab, 2))).failure
    assert failure.reason == Reason.REASON_UNSCHEDULABLE
    assert "TYPE_RECREATE" in failure.remedy
    rollouts.ready(version(node_lab, 2, rollout_strategy=RECREATE))


def listening_after(delay: int, ready_timeout: int) -> Spec:
    command = ("sh", "-c", f"sleep {delay}; exec python3 /model_server.py")
    return custom(images.MODEL_SERVER, *command, ready_timeout=seconds(ready_timeout))


@pytest.mark.timeout(600)
def test_a_model_that_is_slower_than_its_ready_timeout_fails_at_its_time_and_is_ready_later(
    rollouts: Rollouts,
) -> None:
    allowed = 5
    answer = rollouts.deploy(listening_after(15, allowed))
    heard = Recording(rollouts.stub, rollouts.namespace, rollouts.name)
    failure = rollouts.refused(answer).failure
    assert failure.reason == Reason.REASON_PROGRESS_DEADLINE
    assert f"ready_timeout of {allowed} s" in failure.message
    created = answer.service.create_time.ToDatetime()
    assert failure.first_seen_time.ToDatetime() - created >= timedelta(seconds=allowed)
    heard.wait_state(State.STATE_READY, 1, LIMIT)
    heard.close()
    assert [s for s in heard.states(1) if s in (State.STATE_FAILED, State.STATE_READY)] == [
        State.STATE_FAILED,
        State.STATE_READY,
    ], heard.told()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_model_that_loads_longer_than_the_cluster_allows_never_fails_within_its_ready_timeout(
    rollouts: Rollouts,
) -> None:
    rollouts.deploy(listening_after(700, 900))
    heard = Recording(rollouts.stub, rollouts.namespace, rollouts.name)
    heard.wait_state(State.STATE_READY, 1, 1000.0)
    heard.close()
    assert State.STATE_FAILED not in heard.states(1), heard.told()
    warned = {s.status.failure.reason for s in heard.services if s.status.HasField("failure")}
    assert warned <= {Reason.REASON_PROGRESS_DEADLINE, Reason.REASON_NOT_ANSWERING}
