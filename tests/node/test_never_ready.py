"""READY is told of nothing that does not answer: not once, however long it goes on."""

from __future__ import annotations

import time
from itertools import dropwhile

import pytest
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab, images, wait_until
from tests.cluster.asking import State
from tests.cluster.failures import Case, Trial, deployed, faults, follow
from tests.cluster.kubectl import kubectl

from .failures import CORRUPT, FLAPPING, LOADS_NOTHING, MAIN, custom, put_models
from .test_failures import LIMIT

# The pod's shared memory outlives its containers: the first run serves until somebody ends it.
_SERVES_AT_FIRST = """[ -e /dev/shm/again ] && exec python3 /model_server.py --flap 5
touch /dev/shm/again
python3 /model_server.py &
until [ -e /dev/shm/end ]; do sleep 0.1; done
exit 1
"""
# Nobody can know that this one will not last, until it has ended for the first time.
READY_AT_FIRST = Case(
    "ready at first, then for 5 s again and again",
    custom(images.MODEL_SERVER, "sh", "-c", _SERVES_AT_FIRST),
    "CRASH_LOOP",
)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(90.0, id="90s", marks=pytest.mark.timeout(600)),
        pytest.param(600.0, id="10min", marks=(pytest.mark.soak, pytest.mark.timeout(900))),
    ],
)
def test_what_does_not_answer_for_good_is_never_ready(
    node_lab: NodeLab, stub: ModelServiceStub, seconds: float
) -> None:
    cases = (CORRUPT, FLAPPING, LOADS_NOTHING, READY_AT_FIRST)
    with deployed(node_lab, stub, cases, lambda n: put_models(node_lab, n)) as trials:
        ends = time.monotonic() + seconds
        *never, at_first = trials
        wait_until(lambda: at_first.was_ready, "one is READY at first")
        pod = ("-n", at_first.namespace, f"deployment/{at_first.name}-predictor", "-c", MAIN)
        # The command returns before the container ends, and is not killed with it.
        later = "(sleep 1; touch /dev/shm/end) >/dev/null 2>&1 &"
        kubectl(node_lab, "exec", *pod, "--", "sh", "-c", later)
        follow(trials, max(LIMIT, seconds), at_least=ends - time.monotonic())
        assert {t.case.what: found for t in never if (found := faults(t))} == {}
        assert at_first.at_rest
        assert ready_again(at_first) == []


def ready_again(trial: Trial) -> list[float]:
    """When READY was told, in seconds, after it had been told and taken back."""

    def is_ready(told: tuple[float, InferenceService]) -> bool:
        return told[1].status.state == State.STATE_READY

    from_ready_on = dropwhile(lambda told: not is_ready(told), trial.told)
    return [told[0] for told in dropwhile(is_ready, from_ready_on) if is_ready(told)]
