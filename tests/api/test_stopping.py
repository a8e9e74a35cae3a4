"""The stop of a server: streams end with a status, and it is over within the grace."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from modelservice.v1.model_service_pb2 import WatchStatusRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from tests.alone import alone
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of
from tests.serving import Served, serving, settings

from .requests import deploy, key

pytestmark = pytest.mark.processes


def test_at_sigterm_streams_end_with_a_status_and_the_process_ends_well_within_its_grace() -> None:
    # All that is asked within the delay takes some milliseconds.
    with alone(MODELSERVICE_STOP_DELAY="5", MODELSERVICE_STOP_GRACE="200") as server:
        with grpc.insecure_channel(server.address) as channel:
            stub, health = ModelServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
            assert any(m.status == health_pb2.HealthCheckResponse.SERVING for m in watch)
            streams = [
                stub.WatchStatus(WatchStatusRequest(name=f"svc-{n}"), timeout=PATIENCE_SECONDS)
                for n in range(100)
            ]
            for stream in streams:
                next(stream)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert all(stream.is_active() for stream in streams), "calls are still taken"
            live = health.Check(
                health_pb2.HealthCheckRequest(service="live"), timeout=PATIENCE_SECONDS
            )
            assert live.status == health_pb2.HealthCheckResponse.SERVING
            for stream in streams:
                with pytest.raises(grpc.RpcError) as raised:
                    list(stream)
                refusal = refusal_of(raised.value)
                assert (refusal.code, refusal.reason) == (
                    StatusCode.UNAVAILABLE,
                    "SERVER_STOPPING",
                )
                assert refusal.retry_after.total_seconds() > 0
        assert server.join() == 0
        assert time.monotonic() - began < PATIENCE_SECONDS
        assert [event["code"] for event in server.events("call")] == ["UNAVAILABLE"] * 100


def test_a_caller_can_still_look_up_its_last_error_by_reflection_and_delays_no_stop() -> None:
    """grpcurl does, by the reflection stream that it has open anyway."""
    asked: queue.Queue[ServerReflectionRequest | None] = queue.Queue()
    with (
        alone(MODELSERVICE_STOP_DELAY="0", MODELSERVICE_STOP_GRACE="200") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = reflection.ServerReflectionInfo(iter(asked.get, None), timeout=PATIENCE_SECONDS)
        asked.put(ServerReflectionRequest(list_services=""))
        assert next(answers).list_services_response.service
        stream = ModelServiceStub(channel).WatchStatus(WatchStatusRequest(name="svc"))
        next(stream)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(stream)
        symbol = "google.rpc.ErrorInfo"
        asked.put(ServerReflectionRequest(file_containing_symbol=symbol))
        assert next(answers).file_descriptor_response.file_descriptor_proto
        assert server.join() == 0
        assert time.monotonic() - began < PATIENCE_SECONDS
        asked.put(None)


def test_a_second_signal_of_another_kind_is_no_trouble() -> None:
    with alone(MODELSERVICE_STOP_DELAY="0.5") as server:
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        assert server.join() == 0


@pytest.fixture
def inherited(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the server's process finds set for SIGHUP, whatever these tests were started under."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("inherited", [signal.SIG_DFL], indirect=True)
def test_a_terminal_that_is_closed_stops_the_server_in_order(inherited: None) -> None:
    with alone(MODELSERVICE_STOP_DELAY="0.5") as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.join() == 0
        assert server.events("stopped")


@pytest.mark.parametrize("inherited", [signal.SIG_IGN], indirect=True)
def test_under_nohup_a_terminal_that_is_closed_is_no_matter(inherited: None) -> None:
    with alone(MODELSERVICE_STOP_DELAY="0") as server:
        server.process.send_signal(signal.SIGHUP)
        with grpc.insecure_channel(server.address) as channel:
            watch = ModelServiceStub(channel).WatchStatus(WatchStatusRequest(name="svc"))
            assert next(watch)
            watch.cancel()
        assert server.stop() == 0


def test_a_deploy_that_is_under_way_is_answered(name, monkeypatch) -> None:
    with serving(settings()) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        apply, begun = served.memory.apply, threading.Event()

        async def slow(deploy):
            begun.set()
            await asyncio.sleep(0.5)
            return await apply(deploy)

        monkeypatch.setattr(served.memory, "apply", slow)
        answer = ModelServiceStub(channel).Deploy.future(deploy(name), timeout=PATIENCE_SECONDS)
        assert begun.wait(PATIENCE_SECONDS)
        served.begin_stop()
        assert answer.result().rollout_id
        served.join()


def test_a_reader_that_does_not_read_holds_the_stop_up_for_the_grace_only(name) -> None:
    stops = {"delay": "0", "grace": "1"}
    with serving(settings(stop=stops)) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        stub = ModelServiceStub(channel)
        stub.Deploy(deploy(name))
        stalled = stub.WatchStatus(WatchStatusRequest(name=name), timeout=PATIENCE_SECONDS)
        next(stalled)
        _write_more_than_a_connection_holds(served, name)
        began = time.monotonic()
        served.begin_stop()
        served.join()
        assert 1 <= time.monotonic() - began < PATIENCE_SECONDS
        stalled.cancel()


def test_one_end_of_the_grace_reaches_grpc(name, monkeypatch) -> None:
    """gRPC frees the server at its end; a second end at the same moment would use it after that,
    which ends the process with a segmentation fault, once in a thousand stops."""
    graces: list[float | None] = []
    with serving(settings(stop={"grace": "0.2"})) as served:
        served.wait_until_synced()
        stop = served.application._server.stop

        async def recorded(grace: float | None) -> None:
            graces.append(grace)
            await stop(grace)

        monkeypatch.setattr(served.application._server, "stop", recorded)
        with grpc.insecure_channel(served.address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            held = stub.ServerReflectionInfo(iter(queue.Queue().get, None))
            served.begin_stop()
            served.join()
            held.cancel()
    assert len([grace for grace in graces if grace is None or grace < PATIENCE_SECONDS]) == 1


def test_a_task_that_dies_stops_the_server_and_is_reported(name) -> None:
    served = Served(settings())
    served.start()
    served.wait_until_synced()
    with grpc.insecure_channel(served.address) as channel:
        stream = ModelServiceStub(channel).WatchStatus(WatchStatusRequest(name=name))
        next(stream)
        served.inside(_break_feed, served.memory)
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
    assert refusal_of(raised.value).reason == "SERVER_STOPPING"
    served.join()
    assert isinstance(served.failure, ExceptionGroup)
    assert served.failure.subgroup(ZeroDivisionError)


def _break_feed(memory) -> None:
    memory.store.service = lambda key: 1 / 0
    memory._changes.add(key("any"))


def _write_more_than_a_connection_holds(served, name: str) -> None:
    for number in range(100):
        status = Status(State.PROGRESSING, f"{number} {'x' * 100_000}")
        served.inside(served.memory.set_status, key(name), status)
        time.sleep(0.005)  # the stream's turn: what it does not take it passes over
