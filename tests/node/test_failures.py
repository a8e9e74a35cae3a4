"""What fails on a real node is told with its cause as soon as the cluster knows."""

from __future__ import annotations

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab, wait_until
from tests.cluster.failure_table import table
from tests.cluster.failures import Trial, assert_wait_ended, deployed, faults, follow

from .failures import CASES, HANGS, SECRET, put_models

LIMIT = 300.0
# The aim is 5 s after the cluster showed it; a busy machine gets ten times that.
MARGIN = 50.0


@pytest.mark.timeout(420)
def test_each_failure_is_told_with_its_reason_its_place_and_its_log(
    node_lab: NodeLab, stub: ModelServiceStub
) -> None:
    with deployed(node_lab, stub, (*CASES, HANGS), lambda n: put_models(node_lab, n)) as deploys:
        *trials, hangs = deploys
        lasted = follow(trials, LIMIT)
        print(table(trials, lasted))
        assert {t.case.what: found for t in trials if (found := faults(t))} == {}
        for trial in (t for t in trials if t.case.reason):
            was_told_soon(trial)
        for trial in (t for t in trials if t.case.state == "FAILED"):
            assert_wait_ended(trial)
            is_told_who_waits_now(trial)
            assert SECRET not in repr((trial.told, trial.refusal)), trial.case.what
        # Its container may have begun later than those of all others.
        wait_until(lambda: is_said_to_run(hangs), "the download that hangs is named")


def was_told_soon(trial: Trial) -> None:
    moments = trial.moments()
    assert moments.shown is not None, trial.case.what
    assert moments.named is not None, trial.case.what
    assert moments.named - moments.shown < trial.case.wait + MARGIN, trial.case.what


def is_said_to_run(trial: Trial) -> bool:
    """Whether a container that the model server waits for is named, with its last line."""
    message = trial.last.status.message
    named = "storage-initializer has run for more than " in message
    return named and trial.case.log in message


def is_told_who_waits_now(trial: Trial) -> None:
    """A caller who waits for READY once the log is read gets its lines."""
    if trial.case.log:
        refused = trial.refused_again()
        assert refused, trial.case.what
        assert refused.failure.reason == trial.failure.reason, trial.case.what
        lines = refused.failure.log_lines
        assert any(trial.case.log in line for line in lines), trial.case.what
