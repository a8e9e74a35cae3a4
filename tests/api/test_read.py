"""Get and List."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import InferenceServiceStatus
from modelservice.v1.model_service_pb2 import DeleteRequest, GetRequest, ListRequest

from server.api.specs import spec_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import ServiceKey
from tests.memory_cluster.cluster import MemoryCluster
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused

from .requests import container, deploy, eventually, failed, get, key


def listed(stub, **fields) -> list[str]:
    return [service.name for service in stub.List(ListRequest(**fields)).services]


@pytest.fixture
def namespace(name) -> str:
    """A namespace that no other test deploys into."""
    return f"ns-{name}"


def another_replica_writes(memory, name):
    """A service that a server beside this one deploys, by the same store."""
    replica = MemoryCluster(memory.target.store)
    return memory.awaited(replica.apply(Deploy(key(name), spec_of(container()))))


def test_get_answers_what_deploy_stored_at_once(stub, name) -> None:
    for number in range(50):
        answer = stub.Deploy(deploy(name, f"example.org/model:{number}"))
        service = get(stub, name)
        assert service.spec == container(f"example.org/model:{number}")
        assert service.generation >= answer.service.generation


def test_get_of_an_absent_service_is_not_found(stub, name) -> None:
    refusal = refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Get, GetRequest(name=name))
    assert refusal.metadata == {"namespace": "model-serving", "name": name}


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (GetRequest(), "name"),
        (GetRequest(name="Upper"), "name"),
        (GetRequest(name="x", namespace="a.b"), "namespace"),
        (GetRequest(name="x", namespace="-"), "namespace"),
        (GetRequest(name="x", rollout_id="what"), "rollout_id"),
    ],
)
def test_get_refuses_what_names_nothing(stub, request_, path) -> None:
    refusal = refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.Get, request_)
    assert refusal.fields == [path]


def test_get_with_a_rollout_waits_until_the_view_has_it(stub, memory, grpc_server, name) -> None:
    memory.hold_feed()
    other = another_replica_writes(memory, name)
    timer = threading.Timer(0.3, memory.release_feed)
    timer.start()
    service = stub.Get(GetRequest(name=name, rollout_id=other.rollout.id)).service
    timer.join()
    assert service.rollout_id == other.rollout.id


def test_get_of_a_rollout_that_the_cache_does_not_reach_is_view_behind(stub, memory, name) -> None:
    memory.hold_feed()
    other = another_replica_writes(memory, name)
    began = time.monotonic()
    request = GetRequest(name=name, rollout_id=other.rollout.id)
    refused(StatusCode.UNAVAILABLE, "VIEW_BEHIND", stub.Get, request)
    assert time.monotonic() - began < PATIENCE_SECONDS


def test_get_with_a_rollout_that_never_was_is_gone(stub, name) -> None:
    request = GetRequest(name=name, rollout_id=Rollout("no-such-uid", 1).id)
    refused(StatusCode.NOT_FOUND, "ROLLOUT_GONE", stub.Get, request)


def test_get_shows_log_lines_and_list_does_not(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    memory.set_status(key(name), failed(rollout_id, log_lines=("no such file",)))
    eventually("the failure is reported", lambda: get(stub, name).status.HasField("failure"))
    assert get(stub, name).status.failure.log_lines == ["no such file"]
    (service,) = [s for s in stub.List(ListRequest()).services if s.name == name]
    assert service.status.failure.pod == "pod-1"
    assert service.status.failure.log_lines == []


def test_a_service_without_a_failure_has_none_in_get_and_list(stub, name) -> None:
    stub.Deploy(deploy(name))
    (listed_,) = [s for s in stub.List(ListRequest(page_size=1000)).services if s.name == name]
    assert not listed_.status.HasField("failure")
    assert not get(stub, name).status.HasField("failure")


def test_reads_go_on_while_the_cluster_is_away_and_say_their_age(stub, memory, name) -> None:
    stub.Deploy(deploy(name))
    assert stub.Get(GetRequest(name=name)).view_age.ToTimedelta().total_seconds() < 5
    memory.away()
    time.sleep(0.2)
    assert stub.Get(GetRequest(name=name)).view_age.ToTimedelta().total_seconds() >= 0.2
    assert stub.List(ListRequest()).view_age.ToTimedelta().total_seconds() >= 0.2


def test_list_has_the_services_of_one_namespace_in_order(stub, namespace) -> None:
    for name in ("b", "a", "c"):
        stub.Deploy(deploy(name, namespace=namespace))
    stub.Deploy(deploy("z", namespace=f"{namespace}-other"))
    answer = stub.List(ListRequest(namespace=namespace))
    assert [service.name for service in answer.services] == ["a", "b", "c"]
    assert (answer.total_size, answer.next_page_token) == (3, "")
    everywhere = stub.List(ListRequest(namespace="-", page_size=1000))
    both = [(s.namespace, s.name) for s in everywhere.services if namespace in s.namespace]
    assert both == [(namespace, n) for n in "abc"] + [(f"{namespace}-other", "z")]


def test_list_of_a_namespace_that_has_nothing_is_empty(stub, namespace) -> None:
    answer = stub.List(ListRequest(namespace=namespace))
    assert (list(answer.services), answer.total_size) == ([], 0)


def test_pages_have_every_service_once(stub, namespace) -> None:
    names = [f"svc-{number:03}" for number in range(25)]
    for name in names:
        stub.Deploy(deploy(name, namespace=namespace))
    seen, token, sizes = [], "", []
    while True:
        page = stub.List(ListRequest(namespace=namespace, page_size=10, page_token=token))
        seen += [service.name for service in page.services]
        sizes.append(len(page.services))
        assert page.total_size == 25
        token = page.next_page_token
        if not token:
            break
    assert (seen, sizes) == (names, [10, 10, 5])


def test_a_page_is_100_services_unless_asked_and_1000_at_most(stub, memory, namespace) -> None:
    spec = spec_of(container())

    async def deploy_many() -> None:
        for number in range(1010):
            await memory.target.apply(Deploy(ServiceKey(namespace, f"svc-{number}"), spec))
            await asyncio.sleep(0)  # the feed's turn

    memory.awaited(deploy_many())
    everything = ListRequest(namespace=namespace)
    eventually("all listed", lambda: stub.List(everything).total_size == 1010)
    assert len(listed(stub, namespace=namespace)) == 100
    assert len(listed(stub, namespace=namespace, page_size=5000)) == 1000


def test_a_page_is_cut_before_2_mib(stub, namespace) -> None:
    big = {f"NAME_{number}": "x" * 30_000 for number in range(15)}
    for number in range(6):
        request = deploy(f"svc-{number}", namespace=namespace)
        request.spec.env.update(big)
        stub.Deploy(request)
    first = stub.List(ListRequest(namespace=namespace))
    assert len(first.services) == 4
    assert first.ByteSize() <= 2 * 2**20 + 1000
    second = stub.List(ListRequest(namespace=namespace, page_token=first.next_page_token))
    assert [s.name for s in second.services] == ["svc-4", "svc-5"]
    assert second.next_page_token == ""


def test_list_selects_by_labels_and_states(stub, memory, namespace) -> None:
    stub.Deploy(deploy("a", namespace=namespace, labels={"team": "vision"}))
    stub.Deploy(deploy("b", namespace=namespace, labels={"team": "text"}))
    stub.Deploy(deploy("c", namespace=namespace))
    assert listed(stub, namespace=namespace, label_selector="team in (vision,text)") == ["a", "b"]
    assert listed(stub, namespace=namespace, label_selector="!team") == ["c"]
    managed = "app.kubernetes.io/managed-by=modelservice"
    assert listed(stub, namespace=namespace, label_selector=managed) == ["a", "b", "c"]
    stub.Delete(DeleteRequest(namespace=namespace, name="b"))
    deleting = [InferenceServiceStatus.STATE_DELETING]
    assert listed(stub, namespace=namespace, states=deleting) == ["b"]
    assert stub.List(ListRequest(namespace=namespace, states=deleting)).total_size == 1


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (ListRequest(page_size=-1), "page_size"),
        (ListRequest(namespace="Not one"), "namespace"),
        (ListRequest(label_selector="a in ("), "label_selector"),
        (ListRequest(states=[InferenceServiceStatus.STATE_READY, 77]), "states[1]"),
        (ListRequest(states=[InferenceServiceStatus.STATE_UNSPECIFIED]), "states[0]"),
    ],
)
def test_list_refuses_what_it_does_not_know(stub, request_, path) -> None:
    refusal = refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.List, request_)
    assert refusal.fields == [path]


def test_a_page_token_belongs_to_its_own_list(stub, namespace) -> None:
    for name in "ab":
        stub.Deploy(deploy(name, namespace=namespace))
    token = stub.List(ListRequest(namespace=namespace, page_size=1)).next_page_token
    for other in (
        ListRequest(namespace="elsewhere", page_token=token),
        ListRequest(namespace=namespace, label_selector="a", page_token=token),
        ListRequest(namespace=namespace, page_token=token[:-3]),
        ListRequest(namespace=namespace, page_token="what"),
    ):
        refused(StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", stub.List, other)
