"""The registry's database goes away: everything but the registry goes on, and records catch up."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1 import model_service_pb2 as calls
from modelservice.v1 import registry_service_pb2 as registry
from modelservice.v1.registry_pb2 import ModelDeployment, ModelVersion

from server.adapters.sql.factory import migrate
from tests.adapters.local.server_process import Server, server
from tests.adapters.local.serving import model
from tests.patience import PATIENCE_SECONDS
from tests.postgresql import PostgreSQL, started_postgresql
from tests.refusals import refused
from tests.registry.team import (
    CALL_SECONDS,
    DEPLOYED,
    ENVIRONMENT,
    MODEL,
    PROJECT,
    SUPERSEDED,
    UNDEPLOYED,
    Team,
    eventually,
    wish,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TOLD_WITHIN = 40.0  # two answers of 2 s at most, and the machine may be busy
CAUGHT_UP_WITHIN = PATIENCE_SECONDS


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    with started_postgresql() as database:
        yield database


@pytest.fixture
async def migrated(database: PostgreSQL) -> None:
    await migrate(database.url)


class Outage:
    """A server that deploys from a registry, whose database comes and goes."""

    def __init__(self, folder: Path, running: Server) -> None:
        self.folder = folder
        self.running = running
        self.team = Team(running.channel)

    def register(self) -> None:
        files = self._model(MODEL)
        version = ModelVersion(storage_uri=files.storage_uri, format=files.format)
        self.team.register({"1": version})

    def deployed(self, *names: str) -> list[str]:
        """The ids of the records."""
        return [self.team.deploy(name, "1").service.deployment_id for name in names]

    def deploy_without_the_registry(self, name: str) -> None:
        """In the environment's namespace, as somebody does who knows of no registry."""
        spec = pb.InferenceServiceSpec(model=self._model(name))
        request = calls.DeployRequest(namespace=ENVIRONMENT, name=name, spec=spec)
        self.team.models.Deploy(request, timeout=PATIENCE_SECONDS)

    def assert_told(self) -> None:
        """Whoever needs the registry is told soon that it is away, and everybody else nothing."""
        began = time.monotonic()
        asked = registry.GetRegisteredModelRequest(project=PROJECT, name=MODEL)
        for call, request in (
            (self.team.models.Deploy, wish("later", "1")),
            (self.team.registry.GetRegisteredModel, asked),
        ):
            refusal = refused(StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE", call, request)
            assert refusal.retry_after.total_seconds() > 0
            assert "secret" not in refusal.message
        assert time.monotonic() - began < TOLD_WITHIN
        self.wait_health("registry", NOT_SERVING)
        for service in ("", "live", "cluster"):
            self.wait_health(service, SERVING)

    def assert_caught_up(self) -> None:
        self.wait_health("registry", SERVING)
        began = time.monotonic()
        self.team.wait_until_agreed(CAUGHT_UP_WITHIN)
        print(f"caught up {time.monotonic() - began:.1f} s after the return")

    def wait_health(self, service: str, status: int) -> None:
        health = health_pb2_grpc.HealthStub(self.running.channel)
        asked = health_pb2.HealthCheckRequest(service=service)
        eventually(
            lambda: health.Check(asked, timeout=CALL_SECONDS).status == status,
            lambda: f"{service!r} is not {status}",
        )

    def wait_state(self, record: str, state: ModelDeployment.State.ValueType) -> None:
        eventually(
            lambda: self.team.record(record).state == state, lambda: self.team.record(record)
        )

    def _model(self, tag: str) -> pb.ModelPredictor:
        files = model(self.folder, tag).predictor.storage_uri
        return pb.ModelPredictor(storage_uri=files, format=pb.ModelFormat(name="test"))


@contextmanager
def outage(folder: Path, database: PostgreSQL) -> Iterator[Outage]:
    with server(folder, MODELSERVICE_DATABASE_URL=database.url) as running:
        yield Outage(folder, running)
        assert running.running.stop() == 0
        assert not any("secret@" in line for line in running.running.lines)


@pytest.mark.timeout(600)
def test_records_catch_up_with_what_was_done_without_their_database(
    tmp_path: Path, database: PostgreSQL, migrated: None
) -> None:
    with outage(tmp_path, database) as world:
        world.register()
        kept, gone, replaced = world.deployed("kept", "gone", "replaced")
        world.assert_caught_up()
        database.stop(signal.SIGQUIT)
        world.assert_told()
        world.team.undeploy("gone")
        world.deploy_without_the_registry("replaced")
        database.start()
        world.assert_caught_up()
        world.wait_state(kept, DEPLOYED)
        world.wait_state(gone, UNDEPLOYED)
        world.wait_state(replaced, SUPERSEDED)
        [again] = world.deployed("gone")
        world.wait_state(again, DEPLOYED)


@pytest.mark.timeout(600)
def test_a_server_starts_without_its_database_and_finds_it_later(
    tmp_path: Path, database: PostgreSQL, migrated: None
) -> None:
    database.stop()
    with outage(tmp_path, database) as world:
        world.assert_told()
        world.deploy_without_the_registry("other")
        database.start()
        world.wait_health("registry", SERVING)
        world.register()
        world.deployed("fraud")
        world.assert_caught_up()


@pytest.mark.timeout(600)
def test_a_database_that_hangs_holds_up_nobody_else(
    tmp_path: Path, database: PostgreSQL, migrated: None
) -> None:
    with outage(tmp_path, database) as world:
        world.register()
        [gone] = world.deployed("fraud")
        world.assert_caught_up()
        with hanging(database):
            world.assert_told()
            world.deploy_without_the_registry("other")
            world.team.undeploy("fraud")
        world.assert_caught_up()
        world.wait_state(gone, UNDEPLOYED)


@contextmanager
def hanging(database: PostgreSQL) -> Iterator[None]:
    """None of its processes does anything."""
    number = int((database.folder / "data" / "postmaster.pid").read_text().split()[0])
    first = psutil.Process(number)
    first.suspend()
    processes = [*first.children(recursive=True), first]
    for process in processes:
        process.suspend()
    yield
    for process in processes:
        process.resume()
