"""Attacks by right frames of gRPC: what is in the requests, and how many there are."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import cycle
from typing import Any

import grpc
from modelservice.v1.model_service_pb2 import GetRequest

from tests.api.generated_requests import METHODS
from tests.api.test_largest_requests import CASES, largest

from .attack import Attack, Made
from .target import SERVED, Target

TIMEOUT_SECONDS = 30


async def raw_call(channel: grpc.aio.Channel, method: str, content: bytes) -> str:
    """The code that bytes are answered with."""
    described = METHODS[method]
    path = f"/{described.containing_service.full_name}/{method}"
    try:
        if described.server_streaming:
            async for _ in channel.unary_stream(path)(content, timeout=TIMEOUT_SECONDS):
                break
        else:
            await channel.unary_unary(path)(content, timeout=TIMEOUT_SECONDS)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def largest_requests(target: Target, seconds: float) -> Made:
    """Four callers send, of every field in turn, as many entries as 1 MiB has room for."""
    requests = [(method, largest(method, path)) for method, path in CASES]
    answers: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    async def caller(channel: grpc.aio.Channel, first: int) -> None:
        for method, content in cycle(requests[first:] + requests[:first]):
            answers[await raw_call(channel, method, content)] += 1
            if time.monotonic() > ends:
                return

    async with grpc.aio.insecure_channel(target.address) as channel:
        await asyncio.gather(*(caller(channel, n * len(requests) // 4) for n in range(4)))
    return Made(answers.total(), answers)


async def calls_over_the_limit(target: Target, seconds: float) -> Made:
    """2,500 calls at once on one connection, again and again."""
    answers: Counter[str] = Counter()
    content = GetRequest(name=SERVED).SerializeToString()
    ends = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(target.address) as channel:
        while time.monotonic() < ends:
            calls: list[Any] = [raw_call(channel, "Get", content) for _ in range(2500)]
            answers.update(await asyncio.gather(*calls))
    return Made(answers.total(), answers)


REFUSED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"})
ATTACKS = (
    Attack("largest requests", largest_requests, REFUSED | {"OK", "RESOURCE_EXHAUSTED"}),
    Attack(
        "2,500 calls at once on a connection",
        calls_over_the_limit,
        frozenset({"OK", "RESOURCE_EXHAUSTED"}),
        refuses_others=True,
    ),
)
