"""Reads come from the view: they cost the API server nothing, and never show the time before."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, wait_until
from server.domain.service.inference_service import ServiceKey

from .asking import State, container, delete, deploy, get, outcome, scaling, wait_ready
from .direct import hold, let_go
from .fixtures import StartReplica
from .interference import Link
from .serving import SERVER_USER, Server

READS = 1000
WRITES_EACH, SERVICES = 100, 10
COUNTED = re.compile(r'apiserver_request_total{.*resource="inferenceservices".*} (\d+)')


def test_a_thousand_gets_ask_the_api_server_nothing(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    rollout_id = deploy(stub, namespace, "iris", container()).rollout_id
    wait_ready(stub, namespace, "iris", rollout_id)
    wait_until(lambda: not ending_namespaces(lab), "Kubernetes has cleared earlier namespaces")
    asked, counted = asked_by_servers(lab), counted_by_api_server(lab)

    for _ in range(READS):
        assert get(stub, namespace, "iris").rollout_id == rollout_id

    assert asked_by_servers(lab) == asked
    # KServe may have had something to do meanwhile.
    assert counted_by_api_server(lab) - counted < READS / 100


def asked_by_servers(lab: Lab) -> int:
    """Requests for resources by servers under test, without the watches, which end by themselves
    now and then."""
    entries = lab.audit(SERVER_USER)
    return sum(1 for entry in entries if entry.resource and entry.verb != "watch")


def counted_by_api_server(lab: Lab) -> int:
    """Requests for InferenceServices by anybody, by the API server's own metrics."""
    asked = lab.client.param_serialize(
        method="GET", resource_path="/metrics", auth_settings=["BearerToken"]
    )
    metrics = lab.client.call_api(*asked).read().decode()
    lines = [line for line in metrics.splitlines() if 'verb="WATCH"' not in line]
    return sum(int(match[1]) for line in lines if (match := COUNTED.match(line)))


def ending_namespaces(lab: Lab) -> list[str]:
    items = lab.get("/api/v1/namespaces")["items"]
    return [n["metadata"]["name"] for n in items if n["status"]["phase"] == "Terminating"]


def test_a_get_after_a_deploy_never_shows_the_time_before_it(
    server: Server, replica: StartReplica, namespace: str
) -> None:
    other = replica()

    def write_and_read(name: str) -> int:
        deploy(server.stub, namespace, name, container())
        wrong = 0
        for number in range(1, WRITES_EACH + 1):
            spec = container(scaling=scaling(1, 1 + number))
            rollout_id = deploy(server.stub, namespace, name, spec).rollout_id
            request = pb.GetRequest(namespace=namespace, name=name, rollout_id=rollout_id)
            shown = [get(server.stub, namespace, name), shown_in_the_end(other, request)]
            wrong += sum(1 for service in shown if service.rollout_id != rollout_id)
        return wrong

    with ThreadPoolExecutor(SERVICES) as threads:
        names = [f"scaled-{number}" for number in range(SERVICES)]
        assert sum(threads.map(write_and_read, names)) == 0


def test_a_replica_that_is_held_back_says_so_and_never_shows_the_time_before(
    lab: Lab, server: Server, replica: StartReplica, link: Link, namespace: str
) -> None:
    late = replica(kubeconfig=link.kubeconfig)
    deploy(server.stub, namespace, "iris", container(env={"V": "1"}))
    link.swallow(requests=False)
    rollout_id = deploy(server.stub, namespace, "iris", container(env={"V": "2"})).rollout_id
    request = pb.GetRequest(namespace=namespace, name="iris", rollout_id=rollout_id)
    assert outcome(late.stub.Get, request) == "VIEW_BEHIND"
    link.restore()
    assert shown_in_the_end(late, request).spec.env["V"] == "2"


def shown_in_the_end(server: Server, request: pb.GetRequest) -> InferenceService:
    """What a Get shows, asked again for as long as the replica says that it is behind."""
    while isinstance(answer := outcome(server.stub.Get, request), str):
        assert answer == "VIEW_BEHIND"
    return answer.service


def test_whatever_is_read_after_a_write_shows_it(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    for number in range(1, 21):
        spec = container(scaling=scaling(1, 1 + number))
        rollout_id = deploy(stub, namespace, "iris", spec).rollout_id
        assert listed(stub, namespace).rollout_id == rollout_id
        assert first_watched(stub, namespace).rollout_id == rollout_id
    # It must not be gone before it is read.
    hold(lab, ServiceKey(namespace, "iris"))
    delete(stub, namespace, "iris")
    for shown in (listed(stub, namespace), get(stub, namespace, "iris")):
        assert shown.status.state == State.STATE_DELETING
    let_go(lab, ServiceKey(namespace, "iris"))


def listed(stub: ModelServiceStub, namespace: str) -> InferenceService:
    [service] = stub.List(pb.ListRequest(namespace=namespace)).services
    return service


def first_watched(stub: ModelServiceStub, namespace: str) -> InferenceService:
    messages: Iterable[pb.WatchStatusResponse] = stub.WatchStatus(
        pb.WatchStatusRequest(namespace=namespace)
    )
    return next(iter(messages)).service
