"""Requests that another's canaryTrafficPercent keeps from the newest revision are reported."""

from __future__ import annotations

from grpc import StatusCode
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from server.domain.service.inference_service import ServiceKey
from tests.cluster.asking import Action, Reason, State, container, deploy, get, wait_ready
from tests.cluster.direct import edit
from tests.cluster.recording import Until
from tests.cluster.test_rollouts import UNDER_WAY, Watching, watching

__all__ = ["watching"]

PERCENT = {"none": 0, "fifth": 20}


def test_a_rollout_whose_traffic_is_pinned_ends_the_wait_and_force_takes_the_field_back(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    def rolled_out(image: str, **fields: object) -> dict[str, str]:
        answers = {n: deploy(stub, namespace, n, container(image), **fields) for n in PERCENT}
        return {name: answer.rollout_id for name, answer in answers.items()}

    for image in ("ready:1", "ready:2"):
        for name, rollout_id in rolled_out(image).items():
            wait_ready(stub, namespace, name, rollout_id)
    for name, percent in PERCENT.items():
        pin = {"spec": {"predictor": {"canaryTrafficPercent": percent}}}
        edit(lab, ServiceKey(namespace, name), pin)

    third = rolled_out("ready:3")
    waits = {n: watching(n, until=Until.UNTIL_READY, rollout_id=third[n]) for n in PERCENT}
    for name, percent in PERCENT.items():
        refusal = waits[name].end()
        assert refusal, waits[name].told()
        assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "ROLLOUT_FAILED")
        failure = refusal.failure
        assert Reason.Name(failure.reason) == "REASON_TRAFFIC_PINNED"
        assert failure.rollout_id == third[name]
        assert f"{percent} % of the requests" in failure.message
        assert f"{100 - percent} % to {name}-predictor-0000" in failure.message
        assert "field manager kubectl-edit" in failure.message
        assert "force" in failure.remedy
        *before, last = waits[name].services
        assert last.status.state == State.STATE_DEGRADED, waits[name].told()
        assert {service.status.state for service in before} <= UNDER_WAY, waits[name].told()
        assert all(service.status.serving for service in (*before, last))

    for name in PERCENT:
        again = deploy(stub, namespace, name, container("ready:3"))
        assert again.action == Action.ACTION_UNCHANGED
    for name, rollout_id in rolled_out("ready:3", force=True).items():
        [share] = wait_ready(stub, namespace, name, rollout_id).status.components[0].traffic
        whole = (f"{name}-predictor-00003", 100)
        assert (share.revision, share.percent) == whole, "no pods were replaced"
        assert get(stub, namespace, name).spec == container("ready:3")
