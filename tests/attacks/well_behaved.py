"""A well-behaved client and the kubelet's probe: `python -m tests.attacks.well_behaved ADDRESS NAME
PROBE_TIMEOUT TOKEN SECONDS`, with a Get in every so many seconds, until its input ends.

One line for each call: what, when it was due (CLOCK_MONOTONIC), how many ms it took, and its code.
Calls are made when they are due, whatever became of those before: a server that answers nobody for
a second has 40 slow calls of it, not one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[2] / "generated"))

from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1.model_service_pb2 import GetRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

# The kubelet asks every ten seconds: more often here, so that each attack is seen by some. As the
# kubelet's, a probe begins once the one before has ended.
PROBE_EVERY_SECONDS = 1.0
GET_TIMEOUT_SECONDS = 10

Call = Callable[[], Awaitable[object]]


async def _one_after_the_other(what: str, every: float, call: Call) -> None:
    while True:
        began = time.monotonic()
        await _timed(what, began, call)
        await asyncio.sleep(began + every - time.monotonic())


async def _repeat(what: str, every: float, call: Call) -> None:
    due = time.monotonic()
    running: set[asyncio.Task[None]] = set()
    while True:
        task = asyncio.create_task(_timed(what, due, call))
        running.add(task)
        task.add_done_callback(running.discard)
        due += every
        await asyncio.sleep(due - time.monotonic())


async def _timed(what: str, due: float, call: Call) -> None:
    code = "OK"
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        code = error.code().name
    print(what, f"{due:.4f}", f"{(time.monotonic() - due) * 1000:.2f}", code, flush=True)


async def _run(address: str, name: str, probe_timeout: float, token: str, every: float) -> None:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def probe() -> None:
        # As the kubelet does: a connection of its own for each, within the same timeout.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest(service="live"), timeout=probe_timeout)

    async with grpc.aio.insecure_channel(address) as channel:
        stub = ModelServiceStub(channel)

        async def get() -> None:
            await stub.Get(GetRequest(name=name), timeout=GET_TIMEOUT_SECONDS, metadata=metadata)

        calls = [
            asyncio.create_task(_repeat("get", every, get)),
            asyncio.create_task(_one_after_the_other("probe", PROBE_EVERY_SECONDS, probe)),
        ]
        await asyncio.to_thread(sys.stdin.read)
        for each in calls:
            each.cancel()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4], float(sys.argv[5])))
