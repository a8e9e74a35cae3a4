"""A Deploy that fixes an earlier one is never told as failed by what that one left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until

from .asking import State, deploy, model, wait_ready
from .objects import stored
from .recording import Recording

SERVICES, ROUNDS = 10, 5


def wrongly_told(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, name: str
) -> list[InferenceService]:
    """What was told as failing of the rollouts that fix a service; it is broken in between."""
    heard, fixing = None, []
    for round_ in range(ROUNDS):
        broken = deploy(stub, namespace, name, model(runtime=f"no-such-runtime-{round_}"))
        heard = heard or Recording(stub, namespace, name)
        wait_until(lambda: is_refused(cluster, namespace, name), f"KServe refuses {name}")
        if round_ % 2:
            heard.wait(partial(is_failing, broken.rollout_id), "the broken rollout failed")
        answer = deploy(stub, namespace, name, model(env={"ROUND": str(round_)}))
        wait_ready(stub, namespace, name, answer.rollout_id)
        heard.wait_state(State.STATE_READY, answer.service.generation)
        fixing.append(answer)
    assert heard
    heard.close()
    told = [*heard.services, *(answer.service for answer in fixing)]
    return [s for s in told for answer in fixing if is_failing(answer.rollout_id, s)]


def is_refused(cluster: Cluster, namespace: str, name: str) -> bool:
    status = stored(cluster, namespace, name).get("status", {})
    return bool(status.get("modelStatus", {}).get("transitionStatus") == "InvalidSpec")


def is_failing(rollout_id: str, service: InferenceService) -> bool:
    failing = {State.STATE_FAILED, State.STATE_DEGRADED}
    return service.rollout_id == rollout_id and service.status.state in failing


def test_a_fixing_deploy_is_never_failed_by_the_status_of_the_broken_one(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    def told(number: int) -> list[InferenceService]:
        return wrongly_told(cluster, stub, namespace, f"fixed-{number}")

    with ThreadPoolExecutor(SERVICES) as threads:
        wrong = [service for each in threads.map(told, range(SERVICES)) for service in each]
    print(f"{SERVICES * ROUNDS} fixing Deploys, {len(wrong)} wrongly told as failed")
    assert not wrong
