"""A real PostgreSQL that refuses, with and without TLS: told at once as something that only its
operator can change, in one line, without any password."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import structlog
from grpc import StatusCode
from grpc_health.v1 import health_pb2_grpc
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from lab.credentials import write_loopback_certificate
from lab.port_blocks import own_block
from server import __main__, logs
from server.adapters.sql import database_health
from server.adapters.sql.database_url import UrlInvalid
from server.adapters.sql.engines import postgresql
from server.adapters.sql.factory import RegistryUnusable, migrate, opened_registry
from tests import serving
from tests.adapters.sql.statements import healed, refused, until
from tests.alone import clean_environment
from tests.api.requests import eventually
from tests.api.test_health import NOT_SERVING, SERVING, status
from tests.postgresql import PostgreSQL, execute, started_postgresql
from tests.refusals import refused as refused_call
from tests.registry_store import leave_out_without_postgresql

pytestmark = pytest.mark.processes

PASSWORD = "hunter2"
RULES = """
local     all         all         trust
hostnossl all         tls         127.0.0.1/32 reject
hostssl   all         certificate 127.0.0.1/32 cert
host      all         kerberos    127.0.0.1/32 gss
host      all         all         127.0.0.1/32 scram-sha-256
"""
ROLES = f"""
CREATE ROLE ours LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE tls LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE certificate LOGIN; CREATE ROLE kerberos LOGIN;
CREATE ROLE nologin PASSWORD '{PASSWORD}';
CREATE DATABASE registry OWNER ours; CREATE DATABASE closed; CREATE DATABASE private;
ALTER DATABASE closed ALLOW_CONNECTIONS false;
"""


class Place(NamedTuple):
    """A PostgreSQL on a port of loopback, and the certificate that it has where it has TLS."""

    server: PostgreSQL
    port: int
    certificate: Path

    def url(
        self, query: str = "", user: str = f"ours:{PASSWORD}", database: str = "registry"
    ) -> str:
        query = query.replace("CERTIFICATE", str(self.certificate))
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?{query}"


@contextmanager
def place(folder: Path, *, tls: bool) -> Iterator[Place]:
    port = own_block().next()
    write_loopback_certificate(folder / "made")
    settings = {"listen_addresses": "127.0.0.1", "port": str(port)}
    with started_postgresql(settings=settings) as server:
        data = server.folder / "data"
        (data / "pg_hba.conf").write_text(RULES)
        for name, made in (("server.crt", "tls.crt"), ("server.key", "tls.key")):
            shutil.copy(folder / "made" / made, data / name)
            shutil.chown(data / name, data.owner())
            (data / name).chmod(0o600)
        url = f"{server.url}&port={port}"
        for statement in (
            *filter(str.strip, ROLES.split(";")),
            "REVOKE CONNECT ON DATABASE private FROM public",
            f"ALTER SYSTEM SET ssl = {tls}",
            "ALTER SYSTEM SET ssl_ca_file = 'server.crt'",
            "ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1.3'",
            "SELECT pg_reload_conf()",
        ):
            asyncio.run(execute(url, statement))
        yield Place(server, port, folder / "made" / "tls.crt")


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    leave_out_without_postgresql()
    with place(tmp_path_factory.mktemp("tls"), tls=True) as found:
        yield found


@pytest.fixture(scope="module")
def without_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    leave_out_without_postgresql()
    with place(tmp_path_factory.mktemp("plain"), tls=False) as found:
        yield found


def migrated(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `python -m server migrate` says: one line without the password."""
    for variable in set(clean_environment()) ^ set(__main__.os.environ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MODELSERVICE_DATABASE_URL", url)
    monkeypatch.setattr(logs, "configure", lambda log: None)
    with warnings.catch_warnings():
        # A TLS connection waits for its peer's goodbye, which the end of the command cuts short.
        warnings.simplefilter("ignore", ResourceWarning)
        code = __main__.main(["migrate"])
        gc.collect()
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (1, "", 1), said
    assert PASSWORD not in said.err
    return said.err


REFUSALS = [
    ({"user": f"ours:{PASSWORD}!"}, "password authentication failed for user"),
    ({"user": "ours"}, "password authentication failed for user"),
    ({"user": f"nobody:{PASSWORD}"}, "password authentication failed for user"),
    ({"user": f"nologin:{PASSWORD}"}, "is not permitted to log in"),
    ({"user": "kerberos"}, "asks for an authentication method"),
    ({"database": "none"}, 'database "none" does not exist'),
    ({"database": "closed"}, "not currently accepting connections"),
    ({"database": "private"}, 'permission denied for database "private"'),
    ({"query": "options=-cnone%3D1"}, 'unrecognized configuration parameter "none"'),
    ({"query": "options=-cwork_mem%3Dlots"}, 'invalid value for parameter "work_mem"'),
]


@pytest.mark.parametrize(("parts", "told"), REFUSALS)
def test_migrate_ends_with_1_and_one_line_that_says_why_it_is_refused(
    without_tls: Place, parts: dict[str, str], told: str, monkeypatch, capsys
) -> None:
    said = migrated(without_tls.url(**parts), monkeypatch, capsys)
    assert said.startswith("modelservice: the registry's database refuses this server: ")
    assert told in said


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"query": "sslmode=verify-full&sslrootcert=OTHER"}, "certificate is not accepted"),
        ({"query": "sslmode=verify-ca&sslrootcert=OTHER"}, "certificate is not accepted"),
        ({"query": "sslmode=require&sslrootcert=OTHER"}, "certificate is not accepted"),
        ({"query": "sslmode=require&ssl_max_protocol_version=TLSv1.2"}, "the TLS handshake failed"),
        ({"query": "sslmode=disable", "user": f"tls:{PASSWORD}"}, "pg_hba.conf rejects"),
        ({"query": "sslmode=require", "user": "certificate"}, "valid client certificate"),
    ],
)
def test_a_refusal_of_tls_is_told_as_such(
    with_tls: Place, parts: dict[str, str], told: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    write_loopback_certificate(tmp_path / "other")
    url = with_tls.url(**parts).replace("OTHER", str(tmp_path / "other" / "tls.crt"))
    assert told in migrated(url, monkeypatch, capsys)


def test_a_search_path_without_a_schema_is_told_in_one_line(
    without_tls: Place, monkeypatch, capsys
) -> None:
    said = migrated(without_tls.url("options=-csearch_path%3Dnone"), monkeypatch, capsys)
    assert "has no schema of the search_path" in said


def test_a_database_without_tls_is_told_where_the_url_wants_it(
    without_tls: Place, monkeypatch, capsys
) -> None:
    url = without_tls.url("sslmode=require")
    assert "it offers no TLS, which sslmode requires" in migrated(url, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sslmode=verify-full&sslrootcert=/none", "sslrootcert: the file cannot be read"),
        ("sslmode=verify-full&sslrootcert=NONSENSE", "sslrootcert: the file is not as it must be"),
        ("sslmode=require&sslcrl=/none", "sslcrl: the file cannot be read"),
        ("sslmode=require&sslcert=/none", "sslcert"),
        ("sslmode=require&sslcert=CERTIFICATE&sslkey=/none", "sslkey: the file cannot be read"),
    ],
)
async def test_a_file_that_cannot_be_used_is_told_by_its_parameter(
    with_tls: Place, query: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    with pytest.raises(UrlInvalid, match=f"^{named}"):
        await migrate(with_tls.url(query.replace("NONSENSE", str(tmp_path / "nonsense"))))


@pytest.mark.parametrize(
    ("query", "tls"),
    [
        ("sslmode=verify-full&sslrootcert=CERTIFICATE", True),
        ("sslmode=verify-ca&sslrootcert=CERTIFICATE&sslsni=1&channel_binding=prefer", True),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3", True),
        ("ssl=true", True),
        ("", True),
        ("sslmode=disable&gssencmode=disable", False),
    ],
)
async def test_tls_is_used_as_the_url_wants_it(with_tls: Place, query: str, tls: bool) -> None:
    async with postgresql(with_tls.url(query)) as database, database.readers.connect() as opened:
        found = await opened.exec_driver_sql(
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        )
        assert found.scalar() is tls


async def test_what_providers_put_into_a_url_reaches_the_database(without_tls: Place) -> None:
    query = (
        "connect_timeout=5&keepalives=1&keepalives_idle=30&keepalives_interval=10"
        "&keepalives_count=3&tcp_user_timeout=4000&gssencmode=disable&application_name=x"
        "&options=-csearch_path%3Da%20-cwork_mem%3D5MB&target_session_attrs=read-write"
        "&client_encoding=LATIN1&load_balance_hosts=random"
    )
    async with postgresql(without_tls.url(query)) as database, database.readers.connect() as opened:
        shown = [
            (await opened.exec_driver_sql(f"SHOW {name}")).scalar()
            for name in ("search_path", "work_mem", "application_name", "client_encoding")
        ]
        assert shown == ["a", "5MB", "x", "UTF8"]
        driver = (await opened.get_raw_connection()).driver_connection
        channel = driver._transport.get_extra_info("socket")
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        found = [channel.getsockopt(socket.IPPROTO_TCP, option) for option in options]
        assert (channel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), found) == (
            1,
            [30, 10, 3],
        )
        assert channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000


async def test_a_host_that_is_silent_leaves_time_for_the_next(without_tls: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        query = f"host=127.0.0.1,127.0.0.1&port={port},{without_tls.port}"
        url = f"postgresql://ours:{PASSWORD}@/registry?sslmode=disable&{query}"
        async with postgresql(url) as database, database.readers.connect() as opened:
            assert (await opened.exec_driver_sql("SELECT 1")).scalar() == 1


async def test_what_is_no_postgresql_is_away(without_tls: Place) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 1000)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RegistryUnusable, match="cannot be used"):
            await migrate(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/d?sslmode=disable")


async def test_a_name_that_nobody_has_is_told() -> None:
    with pytest.raises(RegistryUnusable, match="its host's name is not known"):
        await migrate(f"postgresql://u:{PASSWORD}@nobody.invalid/d")


async def test_a_server_logs_at_once_what_is_refused_and_heals_when_that_ends(
    without_tls: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_health, "REFUSED_SECONDS", 0.1)
    owner = f"{without_tls.server.url}&port={without_tls.port}"
    await migrate(without_tls.url())
    await execute(owner, "ALTER ROLE ours PASSWORD 'other'")
    try:
        with structlog.testing.capture_logs() as logged:
            async with opened_registry(without_tls.url()) as registry:
                with refused("refuses this server, nothing was stored"):
                    await registry.read(lambda reading: reading.open_deployments())
                await execute(owner, "ALTER DATABASE registry ALLOW_CONNECTIONS false")
                await execute(owner, f"ALTER ROLE ours PASSWORD '{PASSWORD}'")
                await until(lambda: len(logged) == 2, "the next cause is told")
                await execute(owner, "ALTER DATABASE registry ALLOW_CONNECTIONS true")
                await healed(registry)
    finally:
        await execute(owner, f"ALTER ROLE ours PASSWORD '{PASSWORD}'")
        await execute(owner, "ALTER DATABASE registry ALLOW_CONNECTIONS true")
    events = [(each["log_level"], each["event"]) for each in logged]
    refusal = ("error", "the registry's database refuses this server")
    assert events == [refusal, refusal, ("info", "the registry is back")]
    assert "password authentication failed" in logged[0]["why"]
    assert "not currently accepting" in logged[1]["why"]
    assert PASSWORD not in str(logged)


def test_callers_of_a_registry_that_is_refused_are_not_told_to_try_again(
    without_tls: Place,
) -> None:
    url = without_tls.url(user=f"ours:{PASSWORD}!")
    with (
        serving.serving(serving.settings(registry=url)) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        eventually("the rest serves", lambda: status(health, "") == SERVING)
        assert status(health, "registry") == NOT_SERVING
        call = RegistryServiceStub(channel).ListRegisteredModels
        request = pb.ListRegisteredModelsRequest(project="p")
        refusal = refused_call(StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE", call, request)
        assert "refuses this server" in refusal.message
        assert "try again" not in refusal.message
        assert not refusal.retry_after
        assert PASSWORD not in str(refusal.details)
