"""READY is what the model server itself says: no sooner, and no longer."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from server.adapters.local.proxy.reverse_proxy import ProbeResult, Upstream
from server.domain.rollout.status import FailureReason, State
from server.domain.service.inference_service import InferenceService
from tests.adapters.local.load import load
from tests.adapters.local.world import IRIS, World, servers_of

# JSON that nests beyond what Python reads.
DEEP = b"[" * 20_000


def told_of_iris(world: World) -> list[InferenceService]:
    return [s for s in world.told.history(IRIS) if isinstance(s, InferenceService)]


async def test_a_server_that_answers_long_before_it_has_loaded_has_not_failed(
    world: World,
) -> None:
    """Longer than a server may be unready once its load has ended."""
    await world.ready(world.model(ready_after=3.5))
    assert {s.status.failure for s in told_of_iris(world)} == {None}


@pytest.mark.usefixtures("short_probes")
async def test_a_server_that_hangs_is_taken_out_and_comes_back(world: World) -> None:
    ready = await world.ready(world.model())
    [server] = servers_of(world)
    server.suspend()
    try:
        out = await world.when("taken out", lambda s: not s.status.serving)
        assert out.status.failure
        assert out.status.failure.reason is FailureReason.NOT_ANSWERING
        assert "does not answer" in out.status.failure.message
        async with world.session.get(ready.status.url) as response:
            assert response.status == 503
            assert "does not answer" in await response.text()
        failed = await world.until(State.FAILED)
        assert failed.status.failure == out.status.failure
    finally:
        server.resume()
    back = await world.until(State.READY)
    assert back.status.failure is None
    assert await world.generation_of(back) == 1
    assert servers_of(world) == [server]


async def test_a_server_whose_model_was_unloaded_is_taken_out_and_comes_back(
    world: World,
) -> None:
    ready = await world.ready(world.model())
    origin = await origin_of(world)
    async with world.session.post(f"{ready.status.url}/v2/repository/models/iris/unload"):
        pass
    out = await world.when("taken out", lambda s: not s.status.serving)
    assert out.status.failure
    assert out.status.failure.reason is FailureReason.NOT_ANSWERING
    assert "its model is not ready" in out.status.failure.message
    async with world.session.post(f"{origin}/v2/repository/models/iris/load"):
        pass
    back = await world.until(State.READY)
    assert back.status.failure is None
    assert back.status.url == ready.status.url


@pytest.mark.usefixtures("short_probes")
async def test_a_server_that_hangs_and_is_killed_is_started_again(world: World) -> None:
    await world.ready(world.model())
    [server] = servers_of(world)
    server.suspend()
    await world.when("taken out", lambda s: not s.status.serving)
    server.kill()
    again = await world.until(State.READY)
    assert again.status.failure is None
    assert server not in servers_of(world)


async def test_a_server_under_load_stays(world: World) -> None:
    service = await world.ready(world.model(predict_seconds=0.01))
    async with load(service.status.url) as under:
        for _ in range(5):
            await under.goes_on()
    assert under.failed == []
    assert {s.status.failure for s in told_of_iris(world)} == {None}


async def origin_of(world: World) -> str:
    """Where the model server itself listens, behind the address."""
    [server] = servers_of(world)
    command = server.cmdline()
    return f"http://127.0.0.1:{command[command.index('--port') + 1]}"


@pytest.mark.parametrize("begin", [b"", b'{"name": "', DEEP])
async def test_of_a_server_that_says_no_end_little_is_read(begin: bytes) -> None:
    sent = 0

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + begin)
        with suppress(OSError):
            while begin is not DEEP:
                writer.write(b" " * 2**16)
                sent += 2**16
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        upstream = Upstream(server.sockets[0].getsockname()[1])
        assert await upstream.probe("iris", "/ready") is ProbeResult.NOTHING
        await upstream.close()
    assert sent < 2**25, "what the sockets hold on the way, and no more"
