"""Every failure reason has its rank, remedy and number; CONTRIBUTING.md says how one is added."""

from __future__ import annotations

import pytest
from modelservice.v1 import inference_service_pb2 as pb

from server.api.services import failure_message
from server.domain.rollout.failures import FAILURES, failure_of, rank_of
from server.domain.rollout.status import FailureReason

IN_THE_PROTOS = {name.removeprefix("REASON_") for name in pb.Failure.Reason.keys()}  # noqa: SIM118


def test_the_domain_and_the_protos_have_the_same_reasons() -> None:
    assert {reason.value for reason in FailureReason} == IN_THE_PROTOS - {"UNSPECIFIED"}


@pytest.mark.parametrize("reason", FailureReason)
def test_every_reason_has_a_row_with_a_remedy(reason: FailureReason) -> None:
    assert reason in FAILURES, f"give {reason} a row in server/domain/rollout/failures.py"
    assert FAILURES[reason].remedy
    assert [r for r in FAILURES if rank_of(r) == rank_of(reason)] == [reason]


@pytest.mark.parametrize("reason", FailureReason)
def test_a_failure_reaches_callers_with_the_remedy_of_its_reason(reason: FailureReason) -> None:
    message = failure_message(failure_of(reason, "why"))
    assert pb.Failure.Reason.Name(message.reason) == f"REASON_{reason.value}"
    assert (message.remedy, message.retrying) == FAILURES[reason]


def test_a_more_exact_remedy_stands_instead_of_the_reasons() -> None:
    failure = failure_of(FailureReason.VOLUME, "why", remedy="free disk space", retrying=False)
    assert (failure.remedy, failure.retrying) == ("free disk space", False)
