"""What fails in Knative mode is told soon, with its cause, and long before Knative tells it."""

from __future__ import annotations

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from tests.cluster.failure_table import table
from tests.cluster.failures import Trial, assert_wait_ended, deployed, faults, follow
from tests.cluster.test_failures import LIMIT, MARGIN

from .simulated_failures import CASES, put_unbound_claim


@pytest.mark.timeout(300)
def test_each_rollout_that_cannot_work_is_told_with_its_cause(
    lab: Lab, stub: ModelServiceStub
) -> None:
    with deployed(lab, stub, CASES, lambda n: put_unbound_claim(lab, n)) as trials:
        lasted = follow(trials, LIMIT)
        print(table(trials, lasted))
        assert {t.case.what: found for t in trials if (found := faults(t))} == {}
        for trial in trials:
            was_told_soon(trial)
            assert_wait_ended(trial)


def was_told_soon(trial: Trial) -> None:
    rested = trial.moments().rested
    assert rested is not None, trial.case.what
    assert rested < trial.case.wait + MARGIN, trial.case.what
