"""Two replicas over one registry: one follows the cluster in the records, and either may die."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg
import grpc
import pytest
from modelservice.v1.registry_pb2 import ModelDeployment, ModelVersion

from lab import Cluster
from tests.patience import PATIENCE_SECONDS
from tests.registry.team import DEPLOYED, FAILED, SUPERSEDED, UNDEPLOYED, Team, eventually

from .fixtures import StartReplica
from .serving import Server

T = TypeVar("T")

VERSIONS = ("1", "2", "3", "4", "5")
CALLERS = 8
FIRST = "first"
# After the one that followed is gone: its lease, and what has come together meanwhile.
TAKEN_OVER_WITHIN = PATIENCE_SECONDS

NOTE_CHANGES = """
CREATE TABLE changes (number bigserial, before jsonb, after jsonb);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO changes (before, after) VALUES (to_jsonb(OLD), to_jsonb(NEW));
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE ON model_deployments FOR EACH ROW EXECUTE FUNCTION note_change();
"""
# jsonb has times as texts.
UNTRUE_CHANGES = """
SELECT before, after FROM changes WHERE before->>'end_time' IS NOT NULL
  OR (after->>'update_time')::timestamptz < (before->>'update_time')::timestamptz
  OR (after->>'end_time')::timestamptz < (before->>'update_time')::timestamptz
  OR (before->>'ready_time' <> after->>'ready_time')
  OR (before->>'ready_time' IS NOT NULL AND after->>'ready_time' IS NULL)
  OR before->>'create_time' <> after->>'create_time'
"""


@dataclass
class Fleet:
    """Two replicas, of which the first follows, and the database that notes each change."""

    first: Server
    second: Server
    team: Team
    database: str
    answered: set[str] = field(default_factory=set)

    def told(self) -> dict[tuple[str, str], ModelDeployment.State.ValueType]:
        """What the record of each answered deployment says, by service and version."""
        records = self.team.records()
        answered = [records[deployment_id] for deployment_id in self.answered]
        told = {(record.service, record.version): record.state for record in answered}
        assert len(told) == len(answered), "deployed twice"
        return told

    def holders(self) -> list[str]:
        """Who has the lease to follow."""
        return [
            holder for [holder] in in_a_thread(_asked(self.database, "SELECT holder FROM leases"))
        ]

    def assert_nothing_else_was_deployed(self) -> None:
        """What the one that was killed did not come to is told to have failed."""
        records = self.team.records()
        others = [r for r in records.values() if r.id not in self.answered and r.service != FIRST]
        assert all(r.state == FAILED and r.HasField("end_time") for r in others), others

    def assert_histories_are_true(self) -> None:
        """No record changed after its end, and no time in one moved back."""
        assert in_a_thread(_asked(self.database, UNTRUE_CHANGES)) == []
        [[changes]] = in_a_thread(_asked(self.database, "SELECT count(*) FROM changes"))
        assert changes

    def deploy(self, name: str, version: str, first: Server) -> None:
        """From one replica, and while that is unavailable from the other.

        A replica that is frozen in a transaction keeps its locks for 10 s; meanwhile a Deploy is
        UNAVAILABLE.
        """
        ends = time.monotonic() + PATIENCE_SECONDS
        for server in itertools.chain([first], itertools.repeat(self.second)):
            team = Team(server.channel, self.team.namespace)
            try:
                answer = team.deploy(name, version, request_id=f"{name}-{version}")
            except grpc.RpcError as e:
                if e.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > ends:
                    raise
                time.sleep(0.2)
            else:
                self.answered.add(answer.service.deployment_id)
                return


@pytest.fixture
def fleet(cluster: Cluster, namespace: str, replica: StartReplica, postgresql_url: str) -> Fleet:
    in_a_thread(_executed(postgresql_url, NOTE_CHANGES))
    settings = {"MODELSERVICE_DATABASE_URL": postgresql_url}
    first = replica(settings)
    team = Team(first.channel, namespace)
    team.register({version: ModelVersion(image=f"any:{version}") for version in VERSIONS})
    team.deploy(FIRST, VERSIONS[0])
    # Who has followed once leads for as long as it lives.
    eventually(lambda: all(r.state == DEPLOYED for r in team.records().values()), team.records)
    second = replica(settings)
    return Fleet(first, second, Team(second.channel, namespace), postgresql_url)


@pytest.mark.timeout(900)
def test_the_follower_is_killed_amid_40_deployments(fleet: Fleet) -> None:
    kill_midway(fleet, 40)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_follower_is_killed_amid_500_deployments(fleet: Fleet) -> None:
    kill_midway(fleet, 500)


@pytest.mark.timeout(600)
def test_a_follower_that_was_stopped_past_its_lease_spoils_nothing(fleet: Fleet) -> None:
    for name in ("kept", "gone", "rolled"):
        fleet.deploy(name, "1", fleet.second)
    fleet.team.wait_until_agreed()
    before = fleet.team.records()
    fleet.first.freeze()
    fleet.team.undeploy("gone")
    fleet.deploy("rolled", "2", fleet.second)
    fleet.deploy("made", "1", fleet.second)
    began = time.monotonic()
    fleet.team.wait_until_agreed(TAKEN_OVER_WITHIN)
    print(f"the other followed {time.monotonic() - began:.1f} s later")
    fleet.first.thaw()
    ends = time.monotonic() + 15
    while time.monotonic() < ends:
        assert fleet.team.disagreements() == []
        time.sleep(0.5)
    states = {
        before[id_].service: record.state
        for id_, record in fleet.team.records().items()
        if id_ in before
    }
    assert states == {FIRST: DEPLOYED, "kept": DEPLOYED, "gone": UNDEPLOYED, "rolled": SUPERSEDED}
    fleet.assert_histories_are_true()


@pytest.mark.timeout(600)
def test_a_follower_that_is_stopped_in_order_leaves_the_lease_to_the_other(fleet: Fleet) -> None:
    [led] = fleet.holders()
    assert fleet.first.stop(60) == 0
    # At its end, long before its term is over.
    assert led not in fleet.holders()
    fleet.deploy("fraud", "1", fleet.second)
    eventually(lambda: fleet.told() == {("fraud", "1"): DEPLOYED}, fleet.told)
    fleet.team.wait_until_agreed()


def kill_midway(fleet: Fleet, deployments: int) -> None:
    names = [f"svc-{number}" for number in range(deployments // len(VERSIONS))]
    replicas = itertools.cycle([fleet.first, fleet.second])
    half = len(names) // 2
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as callers:
        for each in [callers.submit(roll_out, fleet, name, replicas) for name in names[:half]]:
            each.result()
        # What was replaced was seen by the one that follows.
        fleet.team.wait_until_agreed()
        under_way = [callers.submit(roll_out, fleet, name, replicas) for name in names[half:]]
        time.sleep(1)
        fleet.first.kill()
        for each in under_way:
            each.result()
    for name in names[::4]:
        fleet.team.undeploy(name)
    deployed_in = time.monotonic() - began
    ends = {
        (name, version): SUPERSEDED if version != VERSIONS[-1] else last
        for number, name in enumerate(names)
        for last in [DEPLOYED if number % 4 else UNDEPLOYED]
        for version in VERSIONS
    }
    # Of a service that went before anybody followed again, nobody saw what replaced what.
    either = {SUPERSEDED, UNDEPLOYED}
    went = set(names[::4]) & set(names[half:])
    unseen = {(name, version): either for name in went for version in VERSIONS[:-1]}

    def is_told() -> bool:
        told = fleet.told()
        return told.keys() == ends.keys() and all(
            state in unseen.get(which, {ends[which]}) for which, state in told.items()
        )

    eventually(is_told, fleet.told, TAKEN_OVER_WITHIN)
    print(f"{deployments} deployments in {deployed_in:.0f} s;", end=" ")
    print(f"each was on record {time.monotonic() - began - deployed_in:.0f} s later")
    fleet.team.wait_until_agreed()
    fleet.assert_nothing_else_was_deployed()
    fleet.assert_histories_are_true()


def roll_out(fleet: Fleet, name: str, replicas: Iterator[Server]) -> None:
    for version in VERSIONS:
        fleet.deploy(name, version, next(replicas))


def in_a_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def _executed(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()


async def _asked(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()
