"""Attacks by streams: many of them, and such as nobody reads."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import count
from typing import NamedTuple

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from modelservice.v1.model_service_pb2 import DeleteRequest, DeployRequest, WatchStatusRequest

from tests.http2 import DATA, frame, grpc_message

from .attack import Attack, Made
from .connection import Connection
from .requests import answer, request
from .target import SERVED, Target
from .transport import ENDS, SERVICE, connections, count_open

WATCH_STATUS = f"{SERVICE}/WatchStatus"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# The server's own limit is 12,000.
STREAMS = 13_000
# Of a second: more at once are a queue of calls, which has a row of its own.
PACE = 2000


class Watch(NamedTuple):
    """A call of a watch."""

    method: str
    content: bytes


WATCH = Watch(WATCH_STATUS, WatchStatusRequest(name=SERVED).SerializeToString())
HEALTH_WATCH = Watch(
    "/grpc.health.v1.Health/Watch", HealthCheckRequest(service="live").SerializeToString()
)


async def open_calls(opened: list[Connection], calls: int, method: str, content: bytes) -> None:
    """Begin so many calls, in turn over the connections."""
    for _ in range(calls // 100 // len(opened)):
        for each in opened:
            for _ in range(100):
                each.call(method, content)
            await asyncio.sleep(100 / PACE)


async def open_watches(target: Target, seconds: float, watches: int, watch: Watch = WATCH) -> Made:
    """So many watches, a thousand over each connection, which then stay open."""
    answers: Counter[str] = Counter()
    async with connections(target, watches // 1000, answers) as opened:
        await open_calls(opened, watches, *watch)
        await asyncio.sleep(seconds)
        count_open(opened, answers)
    return Made(watches, answers)


async def streams_over_the_limit(target: Target, seconds: float) -> Made:
    """13,000 watches of a service, which is more than there is room for."""
    return await open_watches(target, seconds, STREAMS)


async def health_watches(target: Target, seconds: float) -> Made:
    """10,000 watches of health."""
    return await open_watches(target, seconds, 10_000, HEALTH_WATCH)


async def readers_that_stop(target: Target, seconds: float) -> Made:
    """1,000 watches of a namespace whose connections are no longer read, while it changes."""
    answers: Counter[str] = Counter()
    content = WatchStatusRequest(namespace="unread").SerializeToString()
    ends, deployed = time.monotonic() + seconds, count()
    async with (
        connections(target, 10, answers) as opened,
        grpc.aio.insecure_channel(target.address) as channel,
    ):
        await open_calls(opened, 1000, WATCH_STATUS, content)
        for each in opened:
            each.transport.pause_reading()
        while time.monotonic() < ends:
            deploy = DeployRequest(namespace="unread", name="changing")
            deploy.annotations["note"] = f"{next(deployed)}" + "x" * 10_000
            deploy.spec.model.format.name = "none"
            deploy.spec.model.storage_uri = "/absent"
            answers[await answer(channel, request("Deploy", deploy))] += 1
        count_open(opened, answers)
        delete = DeleteRequest(namespace="unread", name="changing")
        answers[await answer(channel, request("Delete", delete))] += 1
    return Made(1000 + next(deployed), answers)


async def reflection(target: Target, seconds: float) -> Made:
    """400 streams of reflection that ask for the largest file again and again, ten at once."""
    answers: Counter[str] = Counter()
    symbol = "modelservice.v1.ModelService"
    asked = grpc_message(ServerReflectionRequest(file_containing_symbol=symbol).SerializeToString())
    sent, ends = 0, time.monotonic() + seconds
    async with connections(target, 4, answers) as opened:
        streams = [(each, each.headers(REFLECTION)) for each in opened for _ in range(100)]
        while time.monotonic() < ends:
            for each, stream in streams:
                each.send(b"".join(frame(DATA, 0, stream, asked) for _ in range(10)))
                sent += 10
                await each.drain()
            await asyncio.sleep(0)
        count_open(opened, answers)
    return Made(sent, answers)


async def watches_come_and_go(target: Target, seconds: float) -> Made:
    """Watches that are cancelled as soon as they have begun, by eight clients."""
    answers: Counter[str] = Counter()
    watch = request("WatchStatus", WatchStatusRequest(namespace="-"))
    ends = time.monotonic() + seconds

    async def caller() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target.address, options=options) as channel:
            while time.monotonic() < ends:
                answers[await answer(channel, watch)] += 1

    await asyncio.gather(*(caller() for _ in range(8)))
    return Made(answers.total(), answers)


ATTACKS = (
    Attack(
        "13,000 watches",
        streams_over_the_limit,
        ENDS,
        # Most refusals are held for longer than the attack lasts.
        sees={"open": 11_900, "answered": 150},
    ),
    Attack("10,000 watches of health", health_watches, ENDS, sees={"open": 10_000}),
    Attack("readers that stop", readers_that_stop, ENDS | {"OK"}, sees={"open": 900, "OK": 2}),
    Attack("flood of reflection", reflection, ENDS, by_bytes=True, sees={"open": 400}),
    Attack("watches that come and go", watches_come_and_go, frozenset({"OK"}), sees={"OK": 100}),
)
