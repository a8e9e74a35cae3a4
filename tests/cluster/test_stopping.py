"""How a server ends when it is told to, and how it starts where there is no API server yet."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from modelservice.v1 import model_service_pb2 as pb

from lab import Lab, wait_until
from tests.refusals import Refusal, refused

from .asking import TIMEOUT, Action, container, deploy
from .fixtures import StartReplica
from .interference import Link
from .meanwhile import HEALS_WITHIN, OBJECT, REFUSED_WITHIN
from .recording import Recording
from .serving import Replicas, Server

STREAMS = 100
DELAY = 3.0
# Much more than it takes, so that what ends by it alone is noticed.
GRACE = 60.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_open_streams_are_told_and_it_ends_within_the_grace(
    replica: StartReplica, namespace: str, number: signal.Signals
) -> None:
    server = replica({"MODELSERVICE_STOP_DELAY": f"{DELAY}", "MODELSERVICE_STOP_GRACE": f"{GRACE}"})
    deploy(server.stub, namespace, "watched", container())
    streams = [Recording(server.stub, namespace, "") for _ in range(STREAMS)]
    for stream in streams:
        stream.wait(lambda s: s.name == "watched", "the snapshot")
    health = HealthRecording(server)
    wait_until(lambda: health.told == [SERVING], "health is watched")

    began = time.monotonic()
    os.kill(server.pid, number)
    wait_until(lambda: health.told == [SERVING, NOT_SERVING], "NOT_SERVING is told")
    # Those who have not heard of it yet are still served.
    assert server.is_serving("live")
    server.stub.Get(pb.GetRequest(namespace=namespace, name="watched"), timeout=DELAY)
    for stream in streams:
        assert_told_to_come_again(stream.end(GRACE))
    wait_until(lambda: server.has_ended, "it has ended")
    took = time.monotonic() - began
    print(f"ended {took:.1f} s after the signal")
    assert took < GRACE
    assert server.stop() == 0
    assert health.end() == StatusCode.UNAVAILABLE


def test_a_deploy_that_is_under_way_is_answered(
    lab: Lab, replica: StartReplica, link: Link, namespace: str
) -> None:
    server = replica({"MODELSERVICE_STOP_GRACE": f"{GRACE}"}, kubeconfig=link.kubeconfig)
    # It has a connection on which the request is sent at once.
    deploy(server.stub, namespace, "iris", container(), validate_only=True)
    link.swallow(requests=False)
    with ThreadPoolExecutor() as threads:
        under_way = threads.submit(deploy, server.stub, namespace, "iris", container())
        services = OBJECT.format(namespace, "").rstrip("/")
        wait_until(lambda: lab.get(services)["items"], "it is stored")
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: not server.is_serving(), "the server ends")
        assert not under_way.done()
        link.restore()
        assert under_way.result().action == Action.ACTION_CREATED
    wait_until(lambda: server.has_ended, "it has ended")
    assert server.stop() == 0


@pytest.mark.parametrize("away", [Link.refuse, Link.swallow], ids=["refused", "black hole"])
def test_it_starts_while_the_api_server_is_away_and_heals_by_itself(
    replicas: Replicas, link: Link, namespace: str, away: Callable[[Link], None]
) -> None:
    away(link)
    server = replicas.make(kubeconfig=link.kubeconfig)
    server.launch()
    try:
        wait_until(lambda: server.is_serving("live"), "it listens")
        assert not server.is_serving("")
        assert not server.is_serving("modelservice.v1.ModelService")
        assert not server.is_serving("cluster")
        assert_nothing_is_answered_yet(server, namespace)
        link.restore()
        began = time.monotonic()
        server.wait_ready(HEALS_WITHIN)
        print(f"SERVING {time.monotonic() - began:.1f} s after the API server was there")
        assert deploy(server.stub, namespace, "iris", container()).rollout_id
    finally:
        server.close()


def assert_nothing_is_answered_yet(server: Server, namespace: str) -> None:
    get = pb.GetRequest(namespace=namespace, name="iris")
    for call, request in (
        (server.stub.Get, get),
        (server.stub.List, pb.ListRequest(namespace=namespace)),
        (lambda watch: list(server.stub.WatchStatus(watch)), pb.WatchStatusRequest()),
    ):
        refusal = refused(StatusCode.UNAVAILABLE, "VIEW_NOT_READY", call, request)
        assert refusal.retry_after.total_seconds() > 0
    began = time.monotonic()
    wish = pb.DeployRequest(namespace=namespace, name="iris", spec=container())
    refused(StatusCode.UNAVAILABLE, "CLUSTER_UNAVAILABLE", server.stub.Deploy, wish)
    assert time.monotonic() - began < REFUSED_WITHIN


def assert_told_to_come_again(refusal: Refusal | None) -> None:
    assert refusal
    assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "SERVER_STOPPING")
    assert refusal.retry_after.total_seconds() > 0


class HealthRecording:
    """What a health watch tells, kept by a thread of its own."""

    def __init__(self, server: Server) -> None:
        self.told: list[health_pb2.HealthCheckResponse.ServingStatus.ValueType] = []
        self._call = server.health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def end(self) -> grpc.StatusCode:
        """How it ended."""
        self._thread.join(TIMEOUT)
        code: grpc.StatusCode = self._call.code()
        return code

    def _read(self) -> None:
        try:
            for answer in self._call:
                self.told.append(answer.status)
        except grpc.RpcError:
            return
