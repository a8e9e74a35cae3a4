"""A failed update beside a Revision that serves stays told as that, whatever becomes of its pods.

Knative puts out pods that fail and makes new ones, whose restarts count from 0 again.
"""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import groupby
from typing import Any

import pytest
from grpc import StatusCode
from kubernetes.client.exceptions import NotFoundException
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, wait_until
from tests.cluster.asking import Reason, Spec, State, container, deploy, scaling, wait_ready
from tests.cluster.recording import Recording, Until
from tests.cluster.test_rollouts import UNDER_WAY, Watching, watching

from .test_knative_lab import PODS, SERVING, condition

__all__ = ["watching"]

RECREATIONS = 3
# After this, and some ten seconds more, Knative gives up on the Revision and on its pods.
SOON = {"serving.knative.dev/progress-deadline": "5s"}
AT_ZERO = scaling(0, 2)
LONG = 180.0

CAUSES = {"lab/crash:1": "REASON_CRASH_LOOP", "lab/missing:1": "REASON_IMAGE_PULL"}
by_cause = pytest.mark.parametrize("image", CAUSES)


class FailedUpdate:
    """The service `iris`, READY and then updated to what fails, and all that is told of it."""

    def __init__(self, lab: Lab, stub: ModelServiceStub, namespace: str, heard: Recording) -> None:
        self.lab = lab
        self.namespace = namespace
        self.heard = heard
        self._stub = stub

    def update(self, spec: Spec) -> None:
        """Return once the update is told as failed, which ends the wait for it."""
        answer = deploy(self._stub, self.namespace, "iris", spec, annotations=SOON)
        until = {"until": Until.UNTIL_READY, "rollout_id": answer.rollout_id}
        refused = Recording(self._stub, self.namespace, "iris", **until).end()
        assert refused
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ROLLOUT_FAILED")
        assert refused.failure.rollout_id == answer.rollout_id
        self.heard.wait_state(State.STATE_DEGRADED, 2)

    def failing_pods(self) -> dict[str, dict[str, Any]]:
        """Those of the update that are there to stay, by uid."""
        label = "serving.knative.dev/revision=iris-predictor-00002"
        found = self.lab.get(f"{PODS.format(self.namespace)}?labelSelector={label}")["items"]
        staying = (pod for pod in found if "deletionTimestamp" not in pod["metadata"])
        return {pod["metadata"]["uid"]: pod for pod in staying}

    def replaced(self, old: set[str]) -> bool:
        """Whether a pod that is none of the `old` ones has failed."""
        new = [pod for uid, pod in self.failing_pods().items() if uid not in old]
        return any(map(has_failed, new))

    def knative_gave_up(self) -> bool:
        """Whether Knative's own status says by now that the update has failed."""
        path = SERVING.format(self.namespace, "services", "iris-predictor")
        return condition(self.lab.get(path), "Ready")[0] == "False"

    def assert_told_as_ever(self, reason: str) -> None:
        """Since it failed nothing else was told, and always that it serves."""
        states = self.heard.states(2)
        failed = states.index(State.STATE_DEGRADED)
        assert states[failed:] == [State.STATE_DEGRADED], self.heard.told()
        assert set(states[:failed]) <= UNDER_WAY, self.heard.told()
        told = [service.status for service in self.heard.services if service.generation == 2]
        assert all(status.serving for status in told), self.heard.told()
        failures = (s.failure.reason for s in told if s.state == State.STATE_DEGRADED)
        reasons = [name for name, _ in groupby(map(Reason.Name, failures))]
        # On a slow machine the deadline may pass before a pod shows the cause.
        assert reasons in ([reason], ["REASON_PROGRESS_DEADLINE", reason]), self.heard.told()


@pytest.fixture
def failed(lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching) -> FailedUpdate:
    return FailedUpdate(lab, stub, namespace, watching("iris"))


@by_cause
def test_a_failed_update_stays_degraded_while_its_pods_are_replaced(
    stub: ModelServiceStub, failed: FailedUpdate, image: str
) -> None:
    first = deploy(stub, failed.namespace, "iris", container())
    wait_ready(stub, failed.namespace, "iris", first.rollout_id)
    failed.update(container(image))
    for _ in range(RECREATIONS):
        old = failed.failing_pods()
        for pod in old.values():
            # Knative may have put it out meanwhile.
            with suppress(NotFoundException):
                failed.lab.delete({"apiVersion": "v1", "kind": "Pod", **pod})
        wait_until(lambda old=set(old): failed.replaced(old), "the next pod fails")
    wait_until(failed.knative_gave_up, "Knative says that the update failed")
    failed.assert_told_as_ever(CAUSES[image])


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("image", "recreations"), [("lab/crash:1", 3), ("lab/missing:1", 1)])
def test_a_failed_update_stays_degraded_while_knative_replaces_its_pods(
    stub: ModelServiceStub, failed: FailedUpdate, image: str, recreations: int
) -> None:
    first = deploy(stub, failed.namespace, "iris", container())
    wait_ready(stub, failed.namespace, "iris", first.rollout_id)
    failed.update(container(image))
    ends = time.monotonic() + LONG
    pods: set[str] = set()
    while time.monotonic() < ends:
        pods |= failed.failing_pods().keys()
        time.sleep(0.5)
    # Of pods without their image Knative makes new ones once, and lets those be.
    assert len(pods) > recreations
    failed.assert_told_as_ever(CAUSES[image])


@pytest.mark.parametrize(
    "image", ["lab/crash:1", pytest.param("lab/missing:1", marks=pytest.mark.soak)]
)
def test_a_failed_update_at_zero_stays_degraded_when_its_pods_are_gone(
    stub: ModelServiceStub, failed: FailedUpdate, image: str
) -> None:
    first = deploy(stub, failed.namespace, "iris", container(scaling=AT_ZERO))
    wait_ready(stub, failed.namespace, "iris", first.rollout_id)
    path = PODS.format(failed.namespace)
    wait_until(lambda: not failed.lab.get(path)["items"], "iris is at zero")
    failed.update(container(image, scaling=AT_ZERO))
    wait_until(lambda: not failed.failing_pods(), "Knative gave up on its pods", timeout=120)
    wait_until(failed.knative_gave_up, "Knative says that the update failed")
    failed.assert_told_as_ever(CAUSES[image])


def has_failed(pod: dict[str, Any]) -> bool:
    """Whether its container waits to be tried again."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    waiting = (status.get("state", {}).get("waiting", {}).get("reason") for status in statuses)
    return any(str(reason).endswith("BackOff") for reason in waiting)
