"""What fails on a real node is told with its cause as soon as the cluster knows."""

from __future__ import annotations

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.cluster.failure_table import table
from tests.cluster.failures import deployed, faults, follow
from tests.cluster.lab import NodeLab

from .failures import CASES, put_models

LIMIT = 300.0
# The aim is 5 s after the cluster showed it; a busy machine gets ten times that.
MARGIN = 50.0


@pytest.mark.timeout(420)
def test_each_failure_is_told_with_its_reason_its_place_and_its_log(
    node_lab: NodeLab, stub: ModelServiceStub
) -> None:
    with deployed(node_lab, stub, CASES, lambda n: put_models(node_lab, n)) as trials:
        lasted = follow(trials, LIMIT)
        print(table(trials, lasted))
        assert {t.case.what: found for t in trials if (found := faults(t))} == {}
        for trial in (t for t in trials if t.case.reason):
            moments = trial.moments()
            assert moments.shown is not None, trial.case.what
            assert moments.named is not None, trial.case.what
            assert moments.named - moments.shown < trial.case.wait + MARGIN, trial.case.what
