"""MODELSERVICE_LISTEN: every address that it stands for, or none and exit 2."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest

from lab.port_blocks import own_block
from server.api import grpc_server
from server.api.health import LIVE, SERVING, Health
from server.api.transport.listening import AddressUnusable, add_port
from tests.attacks.connection import Connection
from tests.http2 import PING, frame
from tests.patience import PATIENCE_SECONDS

from .test_settings import KUBECONFIG, server


@contextmanager
def taken(host: str, port: int) -> Iterator[None]:
    """Another server at this address and no other."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind((host, port))
        other.listen()
        yield


@pytest.fixture
async def bare() -> Any:
    """A gRPC server as ours, with nothing but health on it."""
    health = Health()
    health.set({LIVE: SERVING})
    made = grpc.aio.server(options=grpc_server._OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(health, made)
    yield made
    await made.stop(None)


async def answers(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        call = health_pb2_grpc.HealthStub(channel).Check
        try:
            return bool(
                (await call(HealthCheckRequest(service=LIVE), timeout=PATIENCE_SECONDS)).status
            )
        except grpc.aio.AioRpcError:
            return False


async def listen(bare: Any, address: str) -> int:
    port = await add_port(bare, address)
    await bare.start()
    return port


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ("localhost", ["127.0.0.1", "[::1]"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("[::1]", ["[::1]"]),
        ("[::]", ["127.0.0.1", "[::1]"]),
        ("0.0.0.0", ["127.0.0.1"]),
    ],
)
@pytest.mark.parametrize("chosen", [True, False])
async def test_it_listens_at_every_address_that_a_name_stands_for(
    bare: Any, asked: str, where: list[str], chosen: bool
) -> None:
    port = await listen(bare, f"{asked}:{0 if chosen else own_block().next()}")
    assert [host for host in where if await answers(f"{host}:{port}")] == where


@pytest.mark.parametrize(
    ("asked", "other"),
    [
        ("localhost", "127.0.0.1"),
        ("localhost", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("[::]", "::1"),
        ("[::]", "127.0.0.1"),
        ("[::]", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
    ],
)
async def test_where_one_of_them_is_taken_it_listens_at_none(
    bare: Any, asked: str, other: str
) -> None:
    port = own_block().next()
    refused = pytest.raises(AddressUnusable, match=r"^MODELSERVICE_LISTEN: .* is taken")
    with taken(other, port), refused:
        await listen(bare, f"{asked}:{port}")
    for host in ("127.0.0.1", "[::1]"):
        assert not await answers(f"{host}:{port}")


async def test_of_a_name_with_several_addresses_all_are_needed(
    bare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = own_block().next()
    found = [(socket.AF_INET, 0, 0, "", (f"127.0.0.{number}", port)) for number in (2, 3)]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    with taken("127.0.0.3", port), pytest.raises(AddressUnusable, match=r"127\.0\.0\.3:.* taken"):
        await listen(bare, f"ours.example:{port}")
    assert await listen(bare, f"ours.example:{port}") == port
    monkeypatch.undo()
    assert [await answers(f"127.0.0.{number}:{port}") for number in (2, 3)] == [True, True]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nobody.invalid:50051", "the name has no address"),
        ("192.0.2.1:50051", "192.0.2.1:50051 is not an address of this machine"),
    ],
)
async def test_an_address_of_another_machine_is_reported(
    bare: Any, address: str, message: str
) -> None:
    with pytest.raises(AddressUnusable, match=message):
        await listen(bare, address)


def test_a_port_in_use_ends_the_start_with_2_and_one_clear_line(tmp_path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    port = own_block().next()
    with taken("127.0.0.1", port):
        ended = server(
            KSERVE_ENABLED="true",
            KUBERNETES_KUBECONFIG=str(tmp_path / "config"),
            MODELSERVICE_LISTEN=f"localhost:{port}",
        )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"127.0.0.1:{port} is taken" in ended.stderr


@pytest.mark.processes
def test_a_link_local_address_is_used_with_its_interface(tmp_path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    address = f"[fe80::1%lo]:{own_block().next()}"
    ended = server(
        KSERVE_ENABLED="true",
        KUBERNETES_KUBECONFIG=str(tmp_path / "config"),
        MODELSERVICE_LISTEN=address,
        MODELSERVICE_ALLOW_PLAINTEXT="true",
    )
    assert ended.returncode == 2
    # Without an interface the system does not look for the address.
    assert f"{address} is not an address of this machine" in ended.stderr


async def test_a_flood_of_pings_is_answered_and_closes_no_connection(bare: Any) -> None:
    address = f"127.0.0.1:{await listen(bare, '127.0.0.1:0')}"
    ended: Counter[str] = Counter()
    connection = await Connection.to(address, ended)
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(100):
            connection.send(frame(PING, 0, 0, b"one more") * 1000)
            await connection.drain()
        connection.call("/grpc.health.v1.Health/Check", HealthCheckRequest().SerializeToString())
        await connection.answered()
    assert ended == {"answered": 1}
    assert await answers(address)
    connection.close()
