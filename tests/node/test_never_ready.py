"""READY is told of nothing that does not answer: not once, however long it goes on."""

from __future__ import annotations

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.cluster.asking import State
from tests.cluster.failures import Case, Trial, deployed, faults, follow
from tests.cluster.lab import NodeLab

from .failures import CORRUPT, FLAPPING, LOADS_NOTHING, put_models, server

# Nobody can know that this one will not last, until it has ended for the first time.
READY_AT_FIRST = Case("ready for 5 s from its first run on", server("--flap", "5"), "CRASH_LOOP")


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(90.0, id="90s"),
        pytest.param(600.0, id="10min", marks=(pytest.mark.soak, pytest.mark.timeout(900))),
    ],
)
def test_what_does_not_answer_for_good_is_never_ready(
    node_lab: NodeLab, stub: ModelServiceStub, seconds: float
) -> None:
    cases = (CORRUPT, FLAPPING, LOADS_NOTHING, READY_AT_FIRST)
    with deployed(node_lab, stub, cases, lambda n: put_models(node_lab, n)) as trials:
        follow(trials, seconds, to_the_end=True)
        *never, at_first = trials
        assert {t.case.what: found for t in never if (found := faults(t))} == {}
        assert ready_after_its_first_end(at_first) == []


def ready_after_its_first_end(trial: Trial) -> list[float]:
    """When READY was told, in seconds after the cluster showed that the container had ended."""
    ended = trial.moments().shown
    assert ended is not None
    return [
        at - ended
        for at, service in trial.told
        # Both come on connections of their own, so that either may be a moment late.
        if service.status.state == State.STATE_READY and at > ended + 1
    ]
