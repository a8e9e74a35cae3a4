"""Whatever fails is told soon, with its cause, and ends the wait for it."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from .asking import Reason, State
from .failures import CASES, Case, Told, fail_all, table
from .lab import Lab

# The aim is 5 s beyond what is waited by design; a busy machine gets ten times that.
MARGIN = 50.0


@pytest.fixture(scope="module")
def told(lab: Lab, stub: ModelServiceStub) -> dict[str, Told]:
    """How each case was told, by its name."""
    told = fail_all(lab, stub)
    print(table(told))
    return {each.case.what: each for each in told}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_rollout_that_cannot_work_is_told_with_its_cause(
    told: dict[str, Told], case: Case
) -> None:
    one = told[case.what]
    assert (one.refusal.code, one.refusal.reason) == (
        StatusCode.FAILED_PRECONDITION,
        "ROLLOUT_FAILED",
    )
    failure = one.refusal.failure
    assert Reason.Name(failure.reason) == f"REASON_{case.reason}"
    assert failure.rollout_id == one.rollout_id
    assert failure.message
    assert failure.remedy
    assert one.state == State.STATE_FAILED
    assert one.seconds < case.wait + MARGIN
