"""grpc.health.v1."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
)

from server.api.health import Health, follow_health
from server.control.watch_cache import WatchCache
from tests.memory_cluster.cluster import MemoryCluster
from tests.patience import PATIENCE_SECONDS
from tests.serving import serving, settings

from .reflection_client import listed_services
from .requests import eventually

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
REGISTRY_SERVICE = "modelservice.v1.RegistryService"
SERVICES = (
    "",
    "modelservice.v1.ModelService",
    "modelservice.v1.RolloutService",
    "cluster",
    "registry",
    "live",
)


def status(health, service: str) -> int:
    return health.Check(HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS).status


def test_every_service_serves_once_synced(health) -> None:
    for service in SERVICES:
        eventually(
            f"{service!r} serves", lambda service=service: status(health, service) == SERVING
        )


def test_until_synced_only_live_serves() -> None:
    unsynced = serving(settings(), synced=False)
    with unsynced as served, grpc.insecure_channel(served.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert status(health, "live") == SERVING
        for service in ("", "modelservice.v1.ModelService"):
            assert status(health, service) == NOT_SERVING
        served.inside(served.memory.release_feed)
        eventually("it serves", lambda: status(health, "") == SERVING)


def test_a_cluster_that_is_away_shows_as_cluster_only(health, memory) -> None:
    memory.away()
    eventually("cluster is away", lambda: status(health, "cluster") == NOT_SERVING)
    for service in ("", "modelservice.v1.ModelService", "live"):
        assert status(health, service) == SERVING
    memory.back()
    eventually("cluster is back", lambda: status(health, "cluster") == SERVING)


def test_a_watcher_gets_changes(health, memory) -> None:
    eventually("cluster serves", lambda: status(health, "cluster") == SERVING)
    watch = health.Watch(HealthCheckRequest(service="cluster"), timeout=PATIENCE_SECONDS)
    assert next(watch).status == SERVING
    memory.away()
    assert next(watch).status == NOT_SERVING
    memory.back()
    assert next(watch).status == SERVING
    watch.cancel()


def test_a_service_that_is_none_is_not_found(health) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        status(health, "nothing")
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(HealthCheckRequest(service="nothing"), timeout=PATIENCE_SECONDS)
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_every_grpc_service_is_known_by_its_full_name(health, grpc_channel) -> None:
    for service in listed_services(grpc_channel):
        eventually(f"{service} serves", lambda service=service: status(health, service) == SERVING)


def test_list_has_what_check_knows(health) -> None:
    eventually("it serves", lambda: status(health, "") == SERVING)
    listed = health.List(HealthListRequest(), timeout=PATIENCE_SECONDS).statuses
    assert set(SERVICES) < set(listed)
    assert {service: status(health, service) for service in listed} == {
        service: answer.status for service, answer in listed.items()
    }


def test_the_registry_service_serves_as_long_as_the_database_is_usable(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    with (
        serving(settings(registry=f"sqlite:///{file}")) as served,
        grpc.insecure_channel(served.address) as channel,
        closing(sqlite3.connect(file, isolation_level=None)) as database,
    ):
        served.wait_until_synced()
        health = health_pb2_grpc.HealthStub(channel)
        eventually("it serves", lambda: status(health, REGISTRY_SERVICE) == SERVING)
        watch = health.Watch(HealthCheckRequest(service="registry"), timeout=PATIENCE_SECONDS)
        assert next(watch).status == SERVING
        [(schema,)] = database.execute("SELECT version_num FROM alembic_version")
        database.execute("UPDATE alembic_version SET version_num = 'another'")
        assert next(watch).status == NOT_SERVING
        assert status(health, REGISTRY_SERVICE) == NOT_SERVING
        for service in ("", "modelservice.v1.ModelService", "grpc.health.v1.Health"):
            assert status(health, service) == SERVING
        database.execute("UPDATE alembic_version SET version_num = ?", (schema,))
        assert next(watch).status == SERVING
        assert status(health, REGISTRY_SERVICE) == SERVING


async def test_health_follows_each_change_in_the_next_turns_of_the_loop() -> None:
    cache, cluster, health = WatchCache(), MemoryCluster(), Health()
    following = asyncio.create_task(follow_health(health, cache, cluster, None))

    async def now(service: str) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return (await health.Check(HealthCheckRequest(service=service), None)).status

    try:
        assert (await now(""), await now("cluster")) == (NOT_SERVING, SERVING)
        cache.mark_synced()
        assert await now("") == SERVING
        cluster.away()
        assert (await now(""), await now("cluster")) == (SERVING, NOT_SERVING)
        cluster.back()
        assert await now("cluster") == SERVING
        health.stop_admitting()
        cluster.away()
        assert (await now(""), await now("cluster")) == (NOT_SERVING, NOT_SERVING)
    finally:
        following.cancel()


def test_the_registry_service_does_not_serve_without_a_registry() -> None:
    with serving(settings()) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        health = health_pb2_grpc.HealthStub(channel)
        eventually("it is synced", lambda: status(health, "") == SERVING)
        assert status(health, REGISTRY_SERVICE) == NOT_SERVING
        with pytest.raises(grpc.RpcError) as raised:
            status(health, "registry")
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_stopping_server_sends_callers_of_every_service_elsewhere() -> None:
    stopping = settings(stop={"delay": "1", "grace": "10"})
    with serving(stopping) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        health = health_pb2_grpc.HealthStub(channel)
        eventually("it serves", lambda: status(health, "") == SERVING)
        watches = {
            service: health.Watch(HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS)
            for service in ("", "modelservice.v1.ModelService", "grpc.health.v1.Health")
        }
        assert {next(watch).status for watch in watches.values()} == {SERVING}
        served.begin_stop()
        assert next(watches[""]).status == NOT_SERVING
        assert next(watches["modelservice.v1.ModelService"]).status == NOT_SERVING
        for service in ("live", "grpc.health.v1.Health"):
            assert status(health, service) == SERVING
