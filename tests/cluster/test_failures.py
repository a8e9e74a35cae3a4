"""Whatever fails is told soon, with its cause, and ends the wait for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab

from .failure_table import table
from .failures import Case, Trial, assert_wait_ended, deployed, faults, follow
from .simulated_failures import CASES

LIMIT = 120.0
# The aim is 5 s beyond what is waited by design; a busy machine gets ten times that.
MARGIN = 50.0


@pytest.fixture(scope="module")
def trials(lab: Lab, stub: ModelServiceStub) -> Iterator[dict[str, Trial]]:
    """What was told of each case, by its name."""
    with deployed(lab, stub, CASES) as trials:
        lasted = follow(trials, LIMIT)
        print(table(trials, lasted))
        yield {trial.case.what: trial for trial in trials}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_rollout_that_cannot_work_is_told_with_its_cause(
    trials: dict[str, Trial], case: Case
) -> None:
    trial = trials[case.what]
    assert faults(trial) == []
    rested = trial.moments().rested
    assert rested is not None
    assert rested < case.wait + MARGIN
    assert_wait_ended(trial)
