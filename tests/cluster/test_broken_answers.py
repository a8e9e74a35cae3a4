"""What stands for the API server answers as it should not: nothing is missed for long."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb

from lab import Lab, wait_until
from tests.refusals import refused

from . import tampering
from .asking import container
from .meanwhile import Meanwhile
from .serving import Replicas, Server
from .tampering import Fault, Tampering

# What a client may send of one kind of request that fails each time.
REQUESTS_A_SECOND = 2.0
REQUESTS_AT_ONCE = 6
FAULT_SECONDS = 6.0


@pytest.fixture(scope="module")
def proxy(
    lab: Lab, replicas: Replicas, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tampering]:
    proxy = Tampering(lab, replicas.kubeconfig, tmp_path_factory.mktemp("proxy"))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def behind_proxy(replicas: Replicas, proxy: Tampering) -> Iterator[Server]:
    """A server that reaches the API server by the proxy."""
    server = replicas.start(kubeconfig=proxy.kubeconfig)
    yield server
    server.close()


@pytest.fixture
def meanwhile(
    lab: Lab, namespace: str, behind_proxy: Server, proxy: Tampering, server: Server
) -> Iterator[Meanwhile]:
    yield Meanwhile(lab, namespace, stub=behind_proxy.stub, control=server.stub)
    proxy.restore()


def test_watches_that_end_at_once_are_not_opened_in_a_storm(
    meanwhile: Meanwhile, proxy: Tampering
) -> None:
    with_bounded_requests(proxy, meanwhile, lambda: proxy.break_watches(tampering.ended))
    assert meanwhile.age() > 1
    heals(proxy, meanwhile)


def test_a_line_cut_in_the_middle_is_asked_for_again(
    meanwhile: Meanwhile, proxy: Tampering
) -> None:
    with_bounded_requests(proxy, meanwhile, lambda: proxy.break_watches(proxy.cut_in_a_line))
    heals(proxy, meanwhile)


@pytest.mark.parametrize("fault", [tampering.gone, tampering.gone_inside], ids=lambda f: f.__name__)
def test_where_no_watch_can_go_on_lists_keep_the_view_current(
    fault: Fault, meanwhile: Meanwhile, proxy: Tampering
) -> None:
    with_bounded_requests(proxy, meanwhile, lambda: proxy.break_watches(fault))
    # With the watches still broken.
    print(f"told {meanwhile.seconds_until_told():.1f} s after the last change")
    heals(proxy, meanwhile)


def test_patience_that_is_asked_for_is_had(
    meanwhile: Meanwhile, proxy: Tampering, behind_proxy: Server, namespace: str
) -> None:
    with_bounded_requests(proxy, meanwhile, lambda: proxy.break_everything(tampering.too_many))
    request = pb.DeployRequest(namespace=namespace, name="later", spec=container())
    refusal = refused(
        StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS", behind_proxy.stub.Deploy, request
    )
    assert refusal.retry_after.total_seconds() > 0
    heals(proxy, meanwhile)


def test_pages_of_a_proxy_are_an_outage(
    meanwhile: Meanwhile, proxy: Tampering, behind_proxy: Server, namespace: str
) -> None:
    with_bounded_requests(proxy, meanwhile, lambda: proxy.break_everything(tampering.html))
    wait_until(lambda: not behind_proxy.is_serving("cluster"), "`cluster` is NOT_SERVING")
    request = pb.DeployRequest(namespace=namespace, name="later", spec=container())
    refused(StatusCode.UNAVAILABLE, "CLUSTER_UNAVAILABLE", behind_proxy.stub.Deploy, request)
    assert behind_proxy.is_serving("")
    assert meanwhile.age() > 1
    heals(proxy, meanwhile)


def with_bounded_requests(
    proxy: Tampering, meanwhile: Meanwhile, begin: Callable[[], None]
) -> None:
    """Let things happen while nothing gets through, which must not be asked for in a storm."""
    before, began = Counter(proxy.requests), time.monotonic()
    begin()
    meanwhile.happens()
    wait_until(lambda: time.monotonic() > began + FAULT_SECONDS, "the fault has lasted")
    most = REQUESTS_AT_ONCE + REQUESTS_A_SECOND * (time.monotonic() - began)
    asked = Counter(proxy.requests) - before
    [(path, count)] = asked.most_common(1)
    print(f"{count} of at most {most:.0f} requests for {path}")
    assert 2 < count <= most, asked


def heals(proxy: Tampering, meanwhile: Meanwhile) -> None:
    proxy.restore()
    print(f"told {meanwhile.seconds_until_told():.1f} s after the return")
    meanwhile.assert_recreation_was_told()
