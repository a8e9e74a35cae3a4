"""The registry's database as operators have it: migrated by a command, checked at the start, and
never quoted."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from tests.alone import ROOT, alone, clean_environment
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused

pytestmark = pytest.mark.processes

AWAY = "postgresql://modelservice:secret@127.0.0.1:1/registry"


def server(*arguments: str, url: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=ROOT,
        env=clean_environment() | {"MODELSERVICE_DATABASE_URL": url} | environment,
    )


def of_a_later_release(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def test_migrate_makes_the_schema_and_prints_its_revision_however_often(file: Path) -> None:
    for _ in range(2):
        done = server("migrate", url=f"sqlite:///{file}")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "the registry's database has schema 0001\n"


def test_migrate_without_a_url_means_the_state_directory(tmp_path: Path) -> None:
    assert server("migrate", MODELSERVICE_STATE_DIR=str(tmp_path / "state")).returncode == 0
    assert (tmp_path / "state" / "registry.db").is_file()


def test_migrate_reports_in_one_line_why_it_failed(file: Path) -> None:
    assert server("migrate", url=f"sqlite:///{file}").returncode == 0
    of_a_later_release(file)
    for url, code, message in (
        (f"sqlite:///{file}", 1, "schema 9999 of a later release"),
        (AWAY, 1, "Connection refused"),
        ("postgresql://modelservice:secret@host:port/registry", 2, "MODELSERVICE_DATABASE_URL"),
    ):
        done = server("migrate", url=url)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
        assert "secret" not in done.stderr


def test_migrate_on_kserve_without_a_url_has_nothing_to_migrate() -> None:
    done = server("migrate", KSERVE_ENABLED="true")
    assert done.returncode == 2
    assert "MODELSERVICE_DATABASE_URL" in done.stderr


def test_help_lists_migrate_and_migrate_has_its_own() -> None:
    assert "migrate" in server("--help").stdout
    done = server("migrate", "--help")
    assert done.returncode == 0
    assert "MODELSERVICE_DATABASE_URL" in done.stdout


def test_a_server_ends_on_a_schema_of_a_later_release(file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{file}"
    assert server("migrate", url=url).returncode == 0
    of_a_later_release(file)
    ended = server(url=url, MODELSERVICE_STATE_DIR=str(tmp_path / "state"))
    assert ended.returncode == 1
    assert "schema 9999 of a later release" in ended.stderr


def test_a_server_starts_while_its_database_is_away_and_quotes_no_url(tmp_path: Path) -> None:
    environment = {
        "MODELSERVICE_DATABASE_URL": AWAY,
        "MODELSERVICE_STATE_DIR": str(tmp_path),
        "MODELSERVICE_STOP_DELAY": "0",
        "MODELSERVICE_LOG_LEVEL": "debug",
    }
    with alone("server", **environment) as running:
        with grpc.insecure_channel(running.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            statuses = [
                health.Check(HealthCheckRequest(service=service), wait_for_ready=True).status
                for service in ("live", "registry")
            ]
            assert statuses == [HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING]
            call = RegistryServiceStub(channel).ListRegisteredModels
            request = pb.ListRegisteredModelsRequest(project="risk")
            refused(StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE", call, request)
        assert running.stop() == 0
    [event] = running.events("the registry is away")
    assert event["why"] == "Connection refused"
    assert not any("secret" in line for line in running.lines)
