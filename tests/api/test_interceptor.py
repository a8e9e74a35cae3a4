"""Whatever happens in a call, its caller gets a status that leaks nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1.model_service_pb2 import (
    GetRequest,
    ListRequest,
    WatchStatusRequest,
)
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.api.call_limits import CallLimits
from server.api.interceptor import CallInterceptor
from server.control.call import Call
from server.domain.caller import Caller
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of, refused
from tests.serving import serving, settings

from .requests import deploy, eventually, watching

SERVICE = "/modelservice.v1.ModelService"
SECRET = "hunter2"


def raw(channel: grpc.Channel, method: str, request: bytes, *, stream: bool = False) -> Any:
    kind = channel.unary_stream if stream else channel.unary_unary
    answer = kind(f"{SERVICE}/{method}")(request, timeout=PATIENCE_SECONDS)
    return list(answer) if stream else answer


@pytest.mark.parametrize(
    ("method", "stream"),
    [("Deploy", False), ("Get", False), ("List", False), ("Delete", False), ("WatchStatus", True)],
)
def test_bytes_that_are_no_message_are_the_callers_mistake(grpc_channel, method, stream) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        raw(grpc_channel, method, b"\xff\xff\xff", stream=stream)
    refusal = refusal_of(raised.value)
    assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert "Error parsing" not in refusal.message


def test_a_message_larger_than_1_mib_is_refused(stub, name) -> None:
    request = deploy(name, annotations={"a": "x" * 2**20})
    with pytest.raises(grpc.RpcError) as raised:
        stub.Deploy(request)
    assert raised.value.code() == StatusCode.RESOURCE_EXHAUSTED


def test_a_method_that_does_not_exist_is_unimplemented(grpc_channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        raw(grpc_channel, "Undeploy", b"")
    assert raised.value.code() == StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "error",
    [RuntimeError, KeyError, asyncio.CancelledError, TimeoutError, grpc.aio.UsageError],
)
def test_a_bug_is_internal_and_shows_an_id_only(
    stub, grpc_server, monkeypatch, name, error
) -> None:
    async def broken(deploy: Any) -> Any:
        raise error(f"password {SECRET} at https://10.0.0.1:6443")

    monkeypatch.setattr(grpc_server.memory, "apply", broken)
    refusal = refused(
        StatusCode.INTERNAL,
        "INTERNAL",
        lambda r: stub.Deploy(r, timeout=PATIENCE_SECONDS),
        deploy(name),
    )
    assert SECRET not in str(refusal)
    assert "10.0.0.1" not in str(refusal)
    assert error.__name__ not in str(refusal)
    assert refusal.metadata["id"] in refusal.message


def test_a_bug_in_a_stream_is_internal_too(stub, grpc_server, monkeypatch, name) -> None:
    def broken() -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(grpc_server.memory, "age", broken)
    with watching(stub, name=name) as stream:
        messages, error = stream.rest()
    assert messages == []
    refusal = refusal_of(error)
    assert (refusal.code, refusal.reason) == (StatusCode.INTERNAL, "INTERNAL")
    assert SECRET not in str(refusal)


def test_a_caller_that_leaves_takes_its_call_along(stub, grpc_server, monkeypatch, name) -> None:
    begun: list[str] = []
    left: list[str] = []

    async def endless(deploy: Any) -> Any:
        begun.append(deploy.key.name)
        try:
            await asyncio.sleep(3600)
        finally:
            left.append(deploy.key.name)

    monkeypatch.setattr(grpc_server.memory, "apply", endless)
    for leave in ("cancel", "deadline"):
        begun.clear()
        left.clear()
        call = stub.Deploy.future(deploy(name), timeout=5 if leave == "deadline" else None)
        eventually("the call is under way", lambda: begun == [name])
        if leave == "cancel":
            call.cancel()
        eventually("the call has ended at the server", lambda: left == [name])


def test_streams_whose_readers_left_are_forgotten(stub, grpc_server, name) -> None:
    cache = grpc_server.application._cache
    before = len(cache._wakeups._topics)
    calls = [stub.WatchStatus(WatchStatusRequest(name=f"{name}-{n}")) for n in range(20)]
    for call in calls:
        next(call)
    assert len(cache._wakeups._topics) == before + 20
    for call in calls:
        call.cancel()
    eventually("no subscription is left", lambda: len(cache._wakeups._topics) == before)


def test_calls_before_the_cache_has_synced_are_view_not_ready(name) -> None:
    unsynced = serving(settings(), synced=False)
    with unsynced as served, grpc.insecure_channel(served.address) as channel:
        for method, request in (
            ("Get", GetRequest(name=name)),
            ("List", ListRequest()),
            ("WatchStatus", WatchStatusRequest()),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                raw(channel, method, request.SerializeToString(), stream=method[0] == "W")
            refusal = refusal_of(raised.value)
            assert (refusal.code, refusal.reason) == (
                StatusCode.UNAVAILABLE,
                "VIEW_NOT_READY",
            )
            assert refusal.retry_after.total_seconds() > 0


def test_a_namespace_that_is_not_served_is_refused_for_reads_and_writes(name) -> None:
    served_only = settings(serving={"namespaces": "model-serving,team-a"})
    with serving(served_only) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        stub = ModelServiceStub(channel)
        stub.Deploy(deploy(name, namespace="team-a"))
        for call, request in (
            (stub.Deploy, deploy(name, namespace="team-b")),
            (stub.Get, GetRequest(namespace="team-b", name=name)),
            (stub.List, ListRequest(namespace="team-b")),
        ):
            refusal = refused(StatusCode.FAILED_PRECONDITION, "NAMESPACE_NOT_SERVED", call, request)
            assert (
                "ask the operator of this server to add it (MODELSERVICE_NAMESPACES)"
                in refusal.message
            )
        assert len(stub.List(ListRequest(namespace="-")).services) == 1


async def test_a_method_gets_its_caller_deadline_and_trace_and_others_get_grpcs_context() -> None:
    class Context:
        def time_remaining(self) -> float:
            return 60.0

    async def argument(_: Any, argument: Any) -> Any:
        return argument

    async def argument_of(method: str) -> Any:
        calls = CallInterceptor(Caller("trainer"), "default", CallLimits(9, 9))
        guarded = calls.intercept(method, grpc.unary_unary_rpc_method_handler(argument))
        return await guarded.unary_unary(GetRequest().SerializeToString(), Context())

    calls = [await argument_of(f"{SERVICE}/Get") for _ in range(2)]
    assert all(isinstance(call, Call) and call.caller.name == "trainer" for call in calls)
    assert 0 < calls[0].deadline.left() <= 60
    assert len({call.trace for call in calls}) == 2
    for method in ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/Info"):
        assert isinstance(await argument_of(method), Context)
