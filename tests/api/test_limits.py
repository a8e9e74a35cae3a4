"""What the process serves at once is limited; what is one too many is refused, not dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1.model_service_pb2 import DeployResponse, GetRequest, WatchStatusRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.api.call_limits import CallLimits
from server.api.interceptor import CallInterceptor
from server.domain.caller import Caller
from tests.alone import Alone, alone
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of
from tests.serving import Served, serving, settings

from .requests import deploy, eventually, hold_deploys, watching

CALLS, STREAMS = 3, 2
ON_A_CONNECTION, WAITING = 1000, 200


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    limits = {"max_calls": CALLS, "max_streams": STREAMS}
    with serving(settings(serving=limits)) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture
def limited(served: Served) -> Iterator[ModelServiceStub]:
    with grpc.insecure_channel(served.address) as channel:
        yield ModelServiceStub(channel)


def test_a_call_above_the_limit_is_refused_with_retry_info_until_another_ends(
    served: Served, limited: ModelServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, released = hold_deploys(served.memory, monkeypatch)
    with ThreadPoolExecutor(CALLS) as pool:
        waiting = [
            pool.submit(limited.Deploy, deploy(f"s{n}"), timeout=PATIENCE_SECONDS)
            for n in range(CALLS)
        ]
        eventually("as many calls are open as may be", lambda: len(began) == CALLS)
        refused = _refused_get(limited)
        assert refused is not None
        refusal = refusal_of(refused)
        assert (refusal.code, refusal.reason) == (
            StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_REQUESTS",
        )
        assert refusal.retry_after > timedelta(0)
        with grpc.insecure_channel(served.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(service="live")).status == 1
        served.inside(released.set)
        assert all(isinstance(each.result(), DeployResponse) for each in waiting)
    assert limited.Get(GetRequest(name="s0")).service.name == "s0"


def _refused_get(stub: ModelServiceStub) -> grpc.RpcError | None:
    try:
        stub.Get(GetRequest(name="absent"))
    except grpc.RpcError as error:
        return error if error.code() == StatusCode.RESOURCE_EXHAUSTED else None
    return None


def test_a_stream_above_the_limit_is_refused_with_retry_info_until_another_ends(
    limited: ModelServiceStub,
) -> None:
    with ExitStack() as open_streams:
        for nth in range(STREAMS):
            stream = open_streams.enter_context(watching(limited, name=f"w{nth}"))
            stream.next()
        with watching(limited, name="one-too-many") as stream:
            messages, error = stream.rest()
        assert messages == []
        refusal = refusal_of(error)
        assert (refusal.code, refusal.reason) == (
            StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_STREAMS",
        )
        assert refusal.retry_after > timedelta(0)
    eventually("there is room again", lambda: _opens(limited))


async def test_a_refusal_that_its_caller_has_not_taken_yet_uses_no_room() -> None:
    released, taken = asyncio.Event(), asyncio.Event()

    class Context:
        async def abort(self, code: StatusCode, *_: Any) -> None:
            await taken.wait()
            raise grpc.aio.AbortError(code)

        def time_remaining(self) -> None:
            return None

        def code(self) -> StatusCode:
            return StatusCode.RESOURCE_EXHAUSTED

    async def behaviour(*_: Any) -> str:
        await released.wait()
        return "answered"

    guarded = CallInterceptor(Caller(), "default", CallLimits(1, 1)).intercept(
        "/modelservice.v1.ModelService/Get", grpc.unary_unary_rpc_method_handler(behaviour)
    )
    call = partial(guarded.unary_unary, GetRequest(name="a").SerializeToString(), Context())
    first, second = asyncio.create_task(call()), asyncio.create_task(call())
    await asyncio.sleep(0)
    released.set()
    assert await first == "answered"
    assert not second.done()
    async with asyncio.timeout(30):
        assert await call() == "answered"
    taken.set()
    with pytest.raises(grpc.aio.AbortError):
        await second


@pytest.mark.processes
def test_calls_that_are_refused_are_summed_up_in_the_log() -> None:
    with alone(MODELSERVICE_MAX_STREAMS="1", MODELSERVICE_STOP_DELAY="0") as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = ModelServiceStub(channel)
            held = stub.WatchStatus(WatchStatusRequest(name="a"), timeout=200)
            next(held)
            for _ in range(50):
                with watching(stub, name="b") as another:
                    assert another.rest()[1].code() == StatusCode.RESOURCE_EXHAUSTED
            eventually("all are counted", lambda: sum(_refused(server)) == 50)
            held.cancel()
        assert server.stop() == 0
    assert len(_refused(server)) < 50
    reasons = {call.get("reason") for call in server.events("call")}
    assert "TOO_MANY_STREAMS" not in reasons


def _refused(server: Alone) -> list[int]:
    return [line["calls"] for line in server.events("calls refused")]


async def test_calls_that_wait_at_their_client_for_room_on_its_connection_are_not_refused() -> None:
    """All streams of a connection end at once, and those that waited for them begin."""
    with serving(settings()) as served:
        served.wait_until_synced()
        async with grpc.aio.insecure_channel(served.address) as channel:
            stub = ModelServiceStub(channel)
            begun, room = asyncio.Semaphore(0), asyncio.Event()

            async def watch(nth: int) -> None:
                call = stub.WatchStatus(WatchStatusRequest(name=f"w{nth}"), timeout=60)
                await call.read()
                begun.release()
                await room.wait()
                call.cancel()

            async with asyncio.TaskGroup() as tasks:
                for nth in range(ON_A_CONNECTION + WAITING):
                    tasks.create_task(watch(nth))
                for _ in range(ON_A_CONNECTION):
                    await begun.acquire()
                room.set()


def _opens(stub: ModelServiceStub) -> bool:
    with watching(stub, name="another") as stream:
        try:
            stream.next()
        except grpc.RpcError:
            return False
    return True
