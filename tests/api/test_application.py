"""What an application runs beside its calls: tasks that must not end, and listeners."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from lab.port_blocks import own_block
from server.app import Task
from tests.serving import serving, settings


async def fails() -> None:
    raise RuntimeError("it cannot go on")


async def ends() -> None:
    pass


@pytest.mark.parametrize(
    ("run", "why"), [(fails, "it cannot go on"), (ends, "'metrics' ended by itself")]
)
def test_a_task_that_fails_or_ends_by_itself_ends_the_server(
    run: Callable[[], Awaitable[None]], why: str
) -> None:
    with (
        pytest.raises(ExceptionGroup) as raised,
        serving(settings(), tasks=[Task("metrics", run)]) as served,
    ):
        served.join()
    [failure] = raised.value.exceptions
    assert why in str(failure)


class Metrics:
    """A listener that answers how far the server is, on a port of its own."""

    def __init__(self) -> None:
        [self.port] = list(own_block().ports)[:1]
        self.ended = False

    def answer(self) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as asking:
            return asking.recv(16)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"up 1")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", self.port)
        async with server:
            yield
        self.ended = True


def test_a_listener_answers_from_the_start_until_the_last_call_has_ended() -> None:
    metrics = Metrics()
    slow = settings(stop={"delay": "1", "grace": "10"})
    with serving(slow, listeners=[metrics.listening()]) as served:
        served.wait_until_synced()
        assert metrics.answer() == b"up 1"
        with grpc.insecure_channel(served.address) as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest(), timeout=30)
            next(watch)
            served.begin_stop()
            next(watch)
            assert metrics.answer() == b"up 1"
            with pytest.raises(grpc.RpcError):
                list(watch)
        served.join()
        assert metrics.ended


def test_a_listener_that_cannot_listen_keeps_the_server_from_starting() -> None:
    metrics = Metrics()
    with (
        socket.create_server(("127.0.0.1", metrics.port)),
        pytest.raises(OSError, match="in use"),
        serving(settings(), listeners=[metrics.listening()]),
    ):
        pytest.fail("it serves")
