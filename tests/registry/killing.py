"""Servers on the local cluster that are killed around registered deploys and undeploys."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import pytest
from modelservice.v1.inference_service_pb2 import (
    InferenceService,
    InferenceServiceStatus,
    ModelFormat,
)
from modelservice.v1.registry_pb2 import ModelVersion

from tests.adapters.local.server_process import Server, kill, server
from tests.adapters.local.serving import model
from tests.adapters.local.test_random_kills import killed_after
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of
from tests.registry.team import DEPLOYED, FAILED, MODEL, Team, eventually
from tests.seeds import chosen_seed

READY = InferenceServiceStatus.STATE_READY
VERSIONS = ("1", "2", "3")
NAMES = ("a", "b", "c", "d")
STORING_POINTS = ("before-write", "before-rename", "after-write")
DEPLOY_POINTS = (
    "before-record",
    "after-record",
    *STORING_POINTS,
    "before-outcome",
    "before-answer",
)
IN_CI, IN_A_SOAK = 10, 200
EVERY_SO_MANY_IT_FOLLOWS = 10
# Beyond the lease of the one that was killed before.
FOLLOWS_AFTER_SECONDS = 7.0


@dataclass
class Deaths:
    """The servers of one folder and one registry, one after the other, and what they answered."""

    folder: Path
    environment: Mapping[str, str]
    answered: set[str] = field(default_factory=set)
    deaths: int = 0
    steps: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def life(self, crash_at: str = "") -> Iterator[tuple[Server, Team]]:
        point = {"MODELSERVICE_TEST_CRASH_AT": crash_at} if crash_at else {}
        with server(self.folder, **self.environment, **point) as running:
            yield running, Team(running.channel)

    def begin(self) -> None:
        """Register, and deploy what is to be replaced and undeployed."""
        with self.life() as (running, team):
            team.register({version: self._files(version) for version in VERSIONS})
            for point in DEPLOY_POINTS:
                self._acknowledge(team, f"replaced-{point}", VERSIONS[0], "")
            for point in STORING_POINTS:
                for name in _twice("undeployed", point):
                    self._acknowledge(team, name, VERSIONS[0], "")
            kill(running)

    def die_at_named_points(self) -> None:
        """Deploying, anew and over another, and undeploying; what was deployed is tried again."""
        tries = [(how, point) for point in DEPLOY_POINTS for how in ("made", "replaced")]
        for how, point in tries:
            with self._death_at(point) as team:
                team.deploy(f"{how}-{point}", VERSIONS[1], request_id=how)
        for point in STORING_POINTS:
            for name in _twice("undeployed", point):
                with self._death_at(point) as team:
                    team.undeploy(name)
        with self.life() as (running, team):
            for how, point in tries:
                record = self._acknowledge(team, f"{how}-{point}", VERSIONS[1], how)
                _wait_deployed(team, record)
                team.undeploy(f"{how}-{point}")
            kill(running)

    def die_at_random(self, times: int, chance: random.Random) -> None:
        for number in range(times):
            if follows := number % EVERY_SO_MANY_IT_FOLLOWS == 0:
                print(f"{self.deaths} kills so far")
            seconds = chance.uniform(0, 1) + (FOLLOWS_AFTER_SECONDS if follows else 0)
            with self.life() as (running, team):
                with killed_after(running, seconds), pytest.raises(grpc.RpcError):
                    self._act_until_killed(team, chance)
                self._buried(running)

    def assert_all_agree(self) -> None:
        with self.life() as (running, team):
            team.wait_until_agreed()
            records = team.records()
            assert self.answered <= records.keys()
            ended = [r for r in records.values() if r.state == FAILED and r.HasField("end_time")]
            assert {r.error_reason for r in ended} <= {"WRITE_OUTCOME_UNKNOWN", "SERVICE_DELETING"}
            assert self.answered.isdisjoint(r.id for r in ended)
            print(f"{self.deaths} kills, {len(records)} records, {len(ended)} never in the cluster")
            assert running.running.stop() == 0

    def _settle(self) -> None:
        with self.life() as (running, team):
            unsettled = partial(_unsettled, team)
            eventually(lambda: not unsettled(), unsettled)
            kill(running)

    @contextmanager
    def _death_at(self, point: str) -> Iterator[Team]:
        if point in STORING_POINTS:
            # Else it may come to the point by itself: the cluster stores what has become READY.
            self._settle()
        with self.life(point) as (running, team):
            with pytest.raises(grpc.RpcError):
                yield team
            self._buried(running)

    def _act_until_killed(self, team: Team, chance: random.Random) -> None:
        while True:
            name = chance.choice(NAMES)
            if chance.random() < 0.3:
                team.undeploy(name)
            else:
                self._try(team, name, chance.choice(VERSIONS), f"step-{next(self.steps)}")

    def _try(self, team: Team, name: str, version: str, request_id: str) -> None:
        try:
            self._acknowledge(team, name, version, request_id)
        except grpc.RpcError as e:
            if refusal_of(e).reason != "SERVICE_DELETING":
                raise

    def _acknowledge(self, team: Team, name: str, version: str, request_id: str) -> str:
        answer = team.deploy(name, version, request_id=request_id)
        assert answer.service.deployment_id
        self.answered.add(answer.service.deployment_id)
        return answer.service.deployment_id

    def _buried(self, running: Server) -> None:
        assert running.process.wait(PATIENCE_SECONDS) == -9, "it did not come to the point"
        self.deaths += 1

    def _files(self, version: str) -> ModelVersion:
        files = model(self.folder, f"{MODEL}-{version}").predictor.storage_uri
        return ModelVersion(storage_uri=files, format=ModelFormat(name="test"))


def die_everywhere(folder: Path, database_url: str, times: int) -> None:
    """At each named point twice, and so often at random; then every record says what the cluster
    says."""
    print(f"to repeat these moments: MODELSERVICE_TEST_SEED={(began_with := chosen_seed())}")
    url = {"MODELSERVICE_DATABASE_URL": database_url} if database_url else {}
    deaths = Deaths(folder, url)
    deaths.begin()
    deaths.die_at_named_points()
    deaths.die_at_random(times, random.Random(began_with))
    deaths.assert_all_agree()


def _wait_deployed(team: Team, record: str) -> None:
    eventually(lambda: team.record(record).state == DEPLOYED, lambda: team.record(record))


def _unsettled(team: Team) -> list[InferenceService]:
    return [service for service in team.services() if service.status.state != READY]


def _twice(what: str, point: str) -> Sequence[str]:
    return [f"{what}-{point}-{nth}" for nth in (1, 2)]
