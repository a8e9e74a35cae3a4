"""What others do on the control plane, and how rollouts go, comes to be on record."""

from __future__ import annotations

import pytest
from modelservice.v1.registry_pb2 import ModelDeployment, ModelVersion

from lab import Lab
from server.domain.service.inference_service import ServiceKey
from tests.registry.team import DEPLOYED, FAILED, SUPERSEDED, UNDEPLOYED, Team, eventually

from . import direct
from .asking import Reason
from .fixtures import StartReplica
from .serving import Server

VERSIONS = {
    "good": ModelVersion(image="any:1"),
    "missing": ModelVersion(image="lab/missing:1"),
}


@pytest.fixture
def server(lab: Lab, replica: StartReplica, sqlite_url: str) -> Server:
    return replica({"MODELSERVICE_DATABASE_URL": sqlite_url})


@pytest.fixture
def team(server: Server, namespace: str) -> Team:
    team = Team(server.channel, namespace)
    team.register(VERSIONS)
    return team


def wait(team: Team, record: str, state: ModelDeployment.State.ValueType) -> ModelDeployment:
    eventually(lambda: team.record(record).state == state, lambda: team.record(record))
    return team.record(record)


def deployed(team: Team, name: str, version: str = "good") -> str:
    return team.deploy(name, version).service.deployment_id


def test_what_others_delete_is_on_record_whether_or_not_a_server_saw_it(
    lab: Lab, team: Team, server: Server
) -> None:
    seen, unseen, kept = [deployed(team, name) for name in ("seen", "unseen", "kept")]
    for record in (seen, unseen, kept):
        wait(team, record, DEPLOYED)
    direct.remove(lab, ServiceKey(team.namespace, "seen"))
    ended = wait(team, seen, UNDEPLOYED)
    assert ended.create_time.ToDatetime() < ended.ready_time.ToDatetime()
    assert ended.ready_time.ToDatetime() < ended.end_time.ToDatetime()
    server.kill()
    direct.remove(lab, ServiceKey(team.namespace, "unseen"))
    server.start()
    wait(team, unseen, UNDEPLOYED)
    assert team.record(kept).state == DEPLOYED


def test_scaling_by_hand_goes_on_with_the_same_record(lab: Lab, team: Team) -> None:
    record = deployed(team, "scaled")
    first = wait(team, record, DEPLOYED)
    direct.edit(
        lab, ServiceKey(team.namespace, "scaled"), {"spec": {"predictor": {"minReplicas": 2}}}
    )
    eventually(
        lambda: team.record(record).rollout_id != first.rollout_id, lambda: team.record(record)
    )
    assert wait(team, record, DEPLOYED).ready_time == first.ready_time


def test_a_rollout_that_fails_is_on_record_with_its_failure_and_ends_with_the_next(
    lab: Lab, team: Team
) -> None:
    bad = deployed(team, "fraud", "missing")
    failed = wait(team, bad, FAILED)
    assert failed.failure.reason == Reason.REASON_IMAGE_PULL
    assert not failed.HasField("end_time")
    assert not failed.error_reason
    good = deployed(team, "fraud")
    assert wait(team, bad, SUPERSEDED).failure.reason == Reason.REASON_IMAGE_PULL
    wait(team, good, DEPLOYED)
