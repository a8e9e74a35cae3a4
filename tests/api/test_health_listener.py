"""MODELSERVICE_HEALTH_LISTEN: health in plaintext for probes, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
)
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from modelservice.v1.model_service_pb2 import GetRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_service_pb2 import ListRegisteredModelsRequest
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from lab.port_blocks import own_block
from server.api import grpc_server
from server.api.grpc_server import _HEALTH_OPTIONS
from server.api.transport.listening import AddressUnusable
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served, serving

from .requests import deploy
from .tls_files import TlsFiles

SERVING = HealthCheckResponse.SERVING


@pytest.fixture
def port() -> int:
    return own_block().next()


@pytest.fixture
def served(files: TlsFiles, port: int) -> Iterator[Served]:
    stop = {"delay": "0", "grace": str(PATIENCE_SECONDS)}
    with serving(files.settings(stop=stop, health_listen=f"127.0.0.1:{port}")) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture
def probe(port: int, served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def test_probes_are_answered_in_plaintext(probe: grpc.Channel) -> None:
    health = HealthStub(probe)
    for service in ("", "live"):
        request = HealthCheckRequest(service=service)
        assert health.Check(request, timeout=PATIENCE_SECONDS).status == SERVING
    assert "cluster" in health.List(HealthListRequest(), timeout=PATIENCE_SECONDS).statuses


def test_every_other_method_is_unimplemented_there(
    files: TlsFiles, served: Served, probe: grpc.Channel, name: str
) -> None:
    with files.channel(served.address) as channel:
        ModelServiceStub(channel).Deploy(deploy(name), timeout=PATIENCE_SECONDS)
        ModelServiceStub(channel).Get(GetRequest(name=name), timeout=PATIENCE_SECONDS)
    models, registry = ModelServiceStub(probe), RegistryServiceStub(probe)
    for call in (
        lambda: models.Get(GetRequest(name=name), timeout=PATIENCE_SECONDS),
        lambda: models.Deploy(deploy(name), timeout=PATIENCE_SECONDS),
        lambda: registry.ListRegisteredModels(ListRegisteredModelsRequest(project="p")),
        lambda: next(ServerReflectionStub(probe).ServerReflectionInfo(iter([]))),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert raised.value.code() is StatusCode.UNIMPLEMENTED


def test_a_request_there_is_small(probe: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        HealthStub(probe).Check(HealthCheckRequest(service="x" * 2**13), timeout=PATIENCE_SECONDS)
    assert raised.value.code() is StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def options(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a connection may say nothing, in milliseconds."""
    names = ("grpc.server_handshake_timeout_ms", "grpc.max_connection_idle_ms")
    given = dict(_HEALTH_OPTIONS) | dict.fromkeys(names, request.param)
    monkeypatch.setattr(grpc_server, "_HEALTH_OPTIONS", tuple(given.items()))


def connections(port: int, number: int, held: ExitStack) -> list[socket.socket]:
    """So many of them, which say nothing, until the stack is closed."""
    return [
        held.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
        for _ in range(number)
    ]


def closed(connection: socket.socket) -> bool:
    """Whether the server closes a connection before patience ends."""
    with suppress(ConnectionResetError):
        while connection.recv(2**16):
            pass
    return True


def is_live(probe: grpc.Channel) -> bool:
    live = HealthCheckRequest(service="live")
    checked = HealthStub(probe).Check(live, wait_for_ready=True, timeout=PATIENCE_SECONDS)
    return bool(checked.status == SERVING)


@pytest.mark.parametrize("options", [int(PATIENCE_SECONDS * 10_000)], indirect=True)
@pytest.mark.usefixtures("options", "served")
def test_connections_there_have_a_limit(port: int, probe: grpc.Channel) -> None:
    most = dict(_HEALTH_OPTIONS)["grpc.max_allowed_incoming_connections"]
    with ExitStack() as held:
        [*_, last] = connections(port, most + 1, held)
        assert closed(last)
    assert is_live(probe)


@pytest.mark.parametrize("options", [500], indirect=True)
@pytest.mark.usefixtures("options", "served")
def test_connections_there_that_say_nothing_are_closed(port: int, probe: grpc.Channel) -> None:
    with ExitStack() as held:
        assert all(closed(silent) for silent in connections(port, 50, held))
        assert is_live(probe)


def test_it_answers_until_the_last_call_has_ended(
    files: TlsFiles, served: Served, probe: grpc.Channel, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, begun, released = served.memory.apply, threading.Event(), threading.Event()

    async def slow(deploy: Any) -> Any:
        begun.set()
        await asyncio.to_thread(released.wait, PATIENCE_SECONDS)
        return await apply(deploy)

    monkeypatch.setattr(served.memory, "apply", slow)
    watch = HealthStub(probe).Watch(HealthCheckRequest(), timeout=PATIENCE_SECONDS)
    assert next(watch).status == SERVING
    with files.channel(served.address) as channel:
        answer = ModelServiceStub(channel).Deploy.future(deploy(name), timeout=PATIENCE_SECONDS)
        assert begun.wait(PATIENCE_SECONDS)
        served.begin_stop()
        with pytest.raises(grpc.RpcError) as raised:
            list(watch)
        assert raised.value.code() is StatusCode.UNAVAILABLE
        assert "stopping" in raised.value.details()
        assert is_live(probe)
        released.set()
        assert answer.result().rollout_id
    served.join()


def test_a_port_that_is_taken_ends_the_start_and_names_the_setting(
    files: TlsFiles, port: int
) -> None:
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(AddressUnusable, match=r"^MODELSERVICE_HEALTH_LISTEN: .* is taken"),
    ):
        Served(files.settings(health_listen=f"127.0.0.1:{port}")).start()
