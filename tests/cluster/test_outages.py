"""The API server goes away and comes back: reads and streams go on, and nothing is missed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb

from lab import Lab, wait_until
from tests.refusals import Refusal, refusal_of

from .asking import TIMEOUT, Action, container, deploy
from .fixtures import StartReplica
from .interference import Link
from .meanwhile import OBJECT, REFUSED_WITHIN, Meanwhile
from .serving import Replicas, Server

OUTAGE_SECONDS = 30.0
HEARTBEATS = 20


@pytest.fixture(scope="module")
def link(lab: Lab, replicas: Replicas) -> Iterator[Link]:
    link = Link(lab, replicas.kubeconfig, replicas.folder)
    yield link
    link.close()


@pytest.fixture(scope="module")
def behind_link(replicas: Replicas, link: Link) -> Iterator[Server]:
    """A server that reaches the API server by the link."""
    server = replicas.start(kubeconfig=link.kubeconfig)
    yield server
    server.close()


@pytest.fixture
def restored(link: Link) -> Iterator[None]:
    """Whatever a test did to the link, the next one finds it as it was."""
    yield
    link.restore()


def test_the_api_server_is_stopped_for_half_a_minute(
    lab: Lab, namespace: str, server: Server
) -> None:
    meanwhile = Meanwhile(lab, namespace, stub=server.stub, control=server.stub)
    with api_server_stopped(lab) as back:
        began = time.monotonic()
        assert_deploy_is_refused_in_time(server, namespace)
        wait_until(lambda: not server.is_serving("cluster"), "`cluster` is NOT_SERVING")
        while time.monotonic() < began + OUTAGE_SECONDS:
            assert_deploy_is_refused_in_time(server, namespace)
            assert_is_as_old(meanwhile.age, began)
            assert_is_as_old(partial(listed_age, server, namespace), began)
            assert server.is_serving("")
            assert server.is_serving("live")
            time.sleep(1)
        assert_ages_grew(meanwhile, began)
        back()
        print(f"told {meanwhile.seconds_until_told():.1f} s after the return")
    assert server.is_serving("cluster")
    meanwhile.happens()
    print(f"told {meanwhile.seconds_until_told():.1f} s after the last change")
    meanwhile.assert_recreation_was_told()


def test_the_view_is_current_soon_after_the_api_server_is_back(
    lab: Lab, namespace: str, behind_link: Server, link: Link, server: Server, restored: None
) -> None:
    meanwhile = Meanwhile(lab, namespace, stub=behind_link.stub, control=server.stub)
    link.refuse()
    wait_until(lambda: not behind_link.is_serving("cluster"), "`cluster` is NOT_SERVING")
    meanwhile.happens()
    link.restore()
    print(f"told {meanwhile.seconds_until_told():.1f} s after the return")
    meanwhile.assert_recreation_was_told()


def test_a_black_hole_for_half_a_minute(
    lab: Lab, namespace: str, behind_link: Server, link: Link, server: Server, restored: None
) -> None:
    meanwhile = Meanwhile(lab, namespace, stub=behind_link.stub, control=server.stub)
    open_connections(behind_link, namespace)
    link.swallow()
    began = time.monotonic()
    with ThreadPoolExecutor() as threads:
        patient = threads.submit(unknown, behind_link, namespace, "patient", None)
        hurried = threads.submit(unknown, behind_link, namespace, "hurried", 3.0)
        meanwhile.happens()
        wait_until(lambda: not behind_link.is_serving("cluster"), "`cluster` is NOT_SERVING")
        while not patient.done():
            assert_deploy_is_refused_in_time(behind_link, namespace)
            assert_is_as_old(meanwhile.age, began + 1)
            assert behind_link.is_serving("")
            assert behind_link.is_serving("live")
            time.sleep(1)
    assert 2.0 < hurried.result() < 3.0
    assert 29.0 < patient.result() < 60.0
    assert_ages_grew(meanwhile, began + 1)

    link.restore()
    print(f"told {meanwhile.seconds_until_told():.1f} s after the return")
    meanwhile.assert_recreation_was_told()
    wait_until(lambda: behind_link.is_serving("cluster"), "`cluster` is SERVING")
    for name in ("patient", "hurried"):
        assert_one_rollout(lab, namespace, name, behind_link)


def test_a_write_whose_answer_is_lost_is_one_rollout_with_its_retry(
    lab: Lab, namespace: str, behind_link: Server, link: Link, restored: None
) -> None:
    services = OBJECT.format(namespace, "").rstrip("/")
    open_connections(behind_link, namespace)
    link.swallow(requests=False)
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(unknown, behind_link, namespace, "lost", None)
        wait_until(lambda: lab.get(services)["items"], "it is stored")
        link.cut()
        lost.result()
    [stored] = lab.get(services)["items"]
    link.restore()
    rollout = assert_one_rollout(lab, namespace, "lost", behind_link)
    assert rollout.service.uid == stored["metadata"]["uid"]


def test_a_connection_that_cannot_be_made_is_told_in_time(
    namespace: str, replica: StartReplica, link: Link, restored: None
) -> None:
    server = replica(kubeconfig=link.kubeconfig)
    link.swallow()
    link.cut()
    assert_deploy_is_refused_in_time(server, namespace)


def test_connections_that_are_reset_within_an_answer_and_slow_ones_lose_nothing(
    lab: Lab, namespace: str, behind_link: Server, link: Link, server: Server, restored: None
) -> None:
    meanwhile = Meanwhile(lab, namespace, stub=behind_link.stub, control=server.stub)
    link.cut_within_answers()
    link.delay(0.2)
    meanwhile.happens()
    print(f"told {meanwhile.seconds_until_told():.1f} s after the last change")
    meanwhile.assert_recreation_was_told()


@contextmanager
def api_server_stopped(lab: Lab) -> Iterator[Callable[[], None]]:
    """Gives what starts it again."""
    lab.apiserver.stop()
    try:
        yield lab.apiserver.start
    finally:
        if lab.apiserver.has_ended:
            lab.apiserver.start()
        lab.restart_controllers()


def assert_deploy_is_refused_in_time(server: Server, namespace: str) -> None:
    request = pb.DeployRequest(namespace=namespace, name="later", spec=container())
    began = time.monotonic()
    refusal = refusal_by(lambda: server.stub.Deploy(request, timeout=TIMEOUT))
    assert time.monotonic() - began < REFUSED_WITHIN
    assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "CLUSTER_UNAVAILABLE")
    assert refusal.retry_after.total_seconds() > 0


def assert_is_as_old(age: Callable[[], float], began: float) -> None:
    """What is told of the view's age, when it is asked for, is no less than the time since then."""
    least = time.monotonic() - began
    assert age() > least


def assert_ages_grew(meanwhile: Meanwhile, since: float) -> None:
    """One heartbeat a second, each of a view that is a second older; some come late where the
    machine is busy."""
    wait_until(lambda: len(meanwhile.ages_told(since)) >= HEARTBEATS, "the heartbeats have come")
    ages = meanwhile.ages_told(since)[:HEARTBEATS]
    assert all(0.5 < after - before < 10 for before, after in itertools.pairwise(ages)), ages
    assert 18 < ages[-1] - ages[0] < 40, ages


def assert_one_rollout(lab: Lab, namespace: str, name: str, server: Server) -> pb.DeployResponse:
    """Retry with the same request_id until it is answered; what it answered."""
    answer = deploy(server.stub, namespace, name, container(), request_id=name)
    again = deploy(server.stub, namespace, name, container(), request_id=name)
    assert answer.action == again.action == Action.ACTION_CREATED
    assert answer.rollout_id == again.rollout_id
    assert lab.get(OBJECT.format(namespace, name))["metadata"]["generation"] == 1
    return answer


def unknown(server: Server, namespace: str, name: str, timeout: float | None) -> float:
    """Deploy into a black hole; after how many seconds its outcome was told to be unknown."""
    request = pb.DeployRequest(namespace=namespace, name=name, spec=container(), request_id=name)
    while True:
        began = time.monotonic()
        refusal = refusal_by(lambda: server.stub.Deploy(request, timeout=timeout))
        # The server's answer is sent 0.3 s before, which a busy machine may let pass. It cannot go
        # on so: soon the cluster is known to be away.
        if refusal.code is not StatusCode.DEADLINE_EXCEEDED:
            break
    assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "WRITE_OUTCOME_UNKNOWN")
    assert refusal.retry_after.total_seconds() > 0
    return time.monotonic() - began


def refusal_by(call: Callable[[], object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return refusal_of(raised.value)


def listed_age(server: Server, namespace: str) -> float:
    answer = server.stub.List(pb.ListRequest(namespace=namespace), timeout=TIMEOUT)
    return answer.view_age.ToTimedelta().total_seconds()


def open_connections(server: Server, namespace: str) -> None:
    """Have the server hold idle connections, on which a request is sent without waiting."""

    def tried(number: int) -> pb.DeployResponse:
        return deploy(server.stub, namespace, f"tried-{number}", container(), validate_only=True)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(tried, range(4)))
