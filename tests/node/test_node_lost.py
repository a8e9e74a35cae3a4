"""A node that goes away takes its services down, by name, and brings them back."""

from __future__ import annotations

import pytest
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab, wait_until
from tests.cluster.asking import Reason, State, deploy, wait_ready
from tests.cluster.recording import Recording

from .failures import server

# The control plane gives a node 14 s; ten times that, and what comes after it.
LIMIT = 180.0


@pytest.mark.timeout(600)
def test_a_node_that_goes_away_is_named_and_its_service_comes_back_with_it(
    node_lab: NodeLab, stub: ModelServiceStub, namespace: str
) -> None:
    answer = deploy(stub, namespace, "iris", server(env={"PROTOCOL": "v2"}))
    wait_ready(stub, namespace, "iris", answer.rollout_id)
    recording = Recording(stub, namespace, "iris")
    node_lab.kubelet.stop()
    try:
        lost = recording.wait(is_failed, "it is FAILED", LIMIT)
    finally:
        node_lab.kubelet.start()
    failure = lost.status.failure
    assert failure.reason == Reason.REASON_NODE_LOST
    assert "lab-node" in failure.message
    assert failure.pod.startswith("iris-predictor-")
    assert failure.retrying
    assert not lost.status.serving
    wait_until(
        lambda: recording.services[-1].status.state == State.STATE_READY, "it is back", LIMIT
    )
    recording.close()
    assert {s.generation for s in recording.services} == {answer.service.generation}
    wait_until(node_lab.node_is_ready, "the node is ready for others", LIMIT)


def is_failed(service: InferenceService) -> bool:
    return service.status.state in (State.STATE_FAILED, State.STATE_DEGRADED)
