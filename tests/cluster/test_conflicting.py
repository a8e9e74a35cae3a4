"""Two who deploy the same thing, or would undo what another did: who wins and who is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab, wait_until
from tests.refusals import refused

from . import kubectl
from .asking import (
    MODEL,
    SKLEARN_IMAGE,
    TIMEOUT,
    Action,
    container,
    deploy,
    get,
    model,
    outcome,
    wait_gone,
    wait_ready,
)
from .fixtures import StartReplica
from .objects import OBJECT, stored, unmanaged, written, written_once_ready
from .quotas import forbid

# More than the server's tries at one Deploy, and few enough for the 30 s that each may wait.
MANY = 20


def test_a_request_id_used_again_answers_the_first_write(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    first = deploy(stub, namespace, "iris", container(env={"V": "1"}), request_id="build-1")
    later = deploy(stub, namespace, "iris", container(env={"V": "2"}), request_id="build-2")
    before = written_once_ready(cluster, stub, namespace, "iris", later.rollout_id)

    replayed = deploy(stub, namespace, "iris", container(env={"V": "1"}), request_id="build-1")

    assert (replayed.action, replayed.rollout_id) == (Action.ACTION_CREATED, first.rollout_id)
    assert replayed.service.spec.env["V"] == "2"
    assert written(cluster, namespace, "iris") == before
    other = pb.DeployRequest(namespace=namespace, name="iris", spec=model(), request_id="build-1")
    refused(StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED", stub.Deploy, other)


@pytest.mark.parametrize("exists", [False, True], ids=["creating", "updating"])
def test_concurrent_duplicates_on_two_replicas_are_one_rollout(
    cluster: Cluster, server: Any, replica: StartReplica, namespace: str, exists: bool
) -> None:
    stubs = [server.stub, replica().stub]
    if exists:
        deploy(stubs[0], namespace, "iris", container(env={"V": "1"}))
    request = pb.DeployRequest(
        namespace=namespace, name="iris", spec=container(env={"V": "2"}), request_id="build-9"
    )

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: stubs[i % 2].Deploy(request), range(8)))

    wanted = Action.ACTION_UPDATED if exists else Action.ACTION_CREATED
    assert {a.action for a in answers} == {wanted}
    assert len({a.rollout_id for a in answers}) == 1
    assert stored(cluster, namespace, "iris")["metadata"]["generation"] == 1 + exists


def test_many_deploys_of_one_service_at_once_are_all_stored_one_after_the_other(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    def asked(nth: int) -> pb.DeployResponse:
        spec = container(env={"V": str(nth)})
        request = pb.DeployRequest(namespace=namespace, name="iris", spec=spec)
        return stub.Deploy(request, timeout=TIMEOUT)

    with ThreadPoolExecutor(MANY) as threads:
        answers = list(threads.map(asked, range(MANY)))

    assert len({a.rollout_id for a in answers}) == MANY
    assert stored(cluster, namespace, "iris")["metadata"]["generation"] == MANY
    assert [a.action for a in answers].count(Action.ACTION_CREATED) == 1


def test_a_stale_etag_writes_nothing(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    old = deploy(stub, namespace, "iris", container(env={"V": "1"})).service
    deploy(stub, namespace, "iris", container(env={"V": "2"}))
    request = pb.DeployRequest(
        namespace=namespace, name="iris", spec=container(env={"V": "3"}), etag=old.etag
    )
    refused(StatusCode.ABORTED, "ETAG_MISMATCH", stub.Deploy, request)
    unwanted = pb.DeleteRequest(namespace=namespace, name="iris", etag=old.etag)
    refused(StatusCode.ABORTED, "ETAG_MISMATCH", stub.Delete, unwanted)
    held = stored(cluster, namespace, "iris")
    assert held["metadata"]["generation"] == 2
    assert "deletionTimestamp" not in held["metadata"]


def test_an_etag_of_a_deleted_service_does_not_bring_it_back(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    old = deploy(stub, namespace, "iris", container()).service
    kubectl.kubectl(lab, "delete", "inferenceservice", "iris", "-n", namespace, "--wait=true")
    request = pb.DeployRequest(namespace=namespace, name="iris", spec=container(), etag=old.etag)
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Deploy, request)
    assert not kubectl.exists(lab, namespace, "iris")


def test_of_two_writers_with_one_etag_exactly_one_wins(
    cluster: Cluster, server: Any, replica: StartReplica, namespace: str
) -> None:
    stubs = [server.stub, replica().stub]
    for round_ in range(5):
        etag = deploy(stubs[0], namespace, "iris", container(env={"V": f"{round_}"})).service.etag

        requests = [
            pb.DeployRequest(
                namespace=namespace, name="iris", spec=container(env={"W": writer}), etag=etag
            )
            for writer in ("a", "b")
        ]
        with ThreadPoolExecutor(2) as threads:
            outcomes = list(threads.map(outcome, [s.Deploy for s in stubs], requests))
        assert sorted(map(type, outcomes), key=str) == [pb.DeployResponse, str]
        assert "ETAG_MISMATCH" in outcomes


def test_a_service_made_by_kubectl_needs_force_which_changes_its_kind_of_predictor(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    manifest = unmanaged(
        namespace, "theirs", {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": MODEL}}
    )
    lab.apply(manifest, field_manager="kubectl")
    wait_until(lambda: _is_listed(stub, namespace, "theirs"), "the server sees it")
    assert get(stub, namespace, "theirs").unmanaged

    request = pb.DeployRequest(namespace=namespace, name="theirs", spec=container())
    refused(StatusCode.FAILED_PRECONDITION, "NOT_MANAGED", stub.Deploy, request)
    unwanted = pb.DeleteRequest(namespace=namespace, name="theirs")
    refused(StatusCode.FAILED_PRECONDITION, "NOT_MANAGED", stub.Delete, unwanted)

    taken = deploy(stub, namespace, "theirs", container(), force=True)
    assert taken.action == Action.ACTION_UPDATED
    assert not taken.service.unmanaged
    predictor = kubectl.inference_service(lab, namespace, "theirs")["spec"]["predictor"]
    assert "model" not in predictor
    assert predictor["containers"][0]["image"] == SKLEARN_IMAGE
    wait_ready(stub, namespace, "theirs", taken.rollout_id)
    assert deploy(stub, namespace, "theirs", container()).action == Action.ACTION_UNCHANGED


def _is_listed(stub: ModelServiceStub, namespace: str, name: str) -> bool:
    return name in [s.name for s in stub.List(pb.ListRequest(namespace=namespace)).services]


def test_a_deploy_onto_a_service_being_deleted_is_never_acknowledged(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    for round_ in range(5):
        name = f"dying-{round_}"
        dying = deploy(stub, namespace, name, container(env={"V": "1"})).service
        # The server is not told: what it holds still looks alive.
        path = OBJECT.format(namespace, name)
        lab.request("DELETE", path, {"propagationPolicy": "Foreground"})
        request = pb.DeployRequest(namespace=namespace, name=name, spec=container(env={"V": "2"}))
        while (answer := outcome(stub.Deploy, request)) == "SERVICE_DELETING":
            wait_gone(stub, namespace, name)
        assert isinstance(answer, pb.DeployResponse), answer
        assert answer.action == Action.ACTION_CREATED
        assert answer.service.uid != dying.uid


def test_an_exceeded_quota_of_services_is_told(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    image = {"name": "kserve-container", "image": SKLEARN_IMAGE}
    one = unmanaged(namespace, "one", {"containers": [image]})
    forbid(lab, namespace, "count/inferenceservices.serving.kserve.io", one)
    request = pb.DeployRequest(namespace=namespace, name="iris", spec=model())
    refusal = refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", stub.Deploy, request)
    assert "count/inferenceservices" in refusal.message


def test_an_unknown_namespace_is_told_by_writes_and_empty_to_reads(stub: ModelServiceStub) -> None:
    request = pb.DeployRequest(namespace="nowhere", name="iris", spec=model())
    refusal = refused(StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND", stub.Deploy, request)
    assert refusal.metadata == {"namespace": "nowhere"}
    assert not stub.List(pb.ListRequest(namespace="nowhere")).services


def test_what_another_manager_owns_is_named_and_taken_by_force(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    deploy(stub, namespace, "iris", container(env={"V": "1"}))
    their_image = {"name": "kserve-container", "image": "their/image:2"}
    lab.apply(
        unmanaged(namespace, "iris", {"containers": [their_image]}), field_manager="their-tool"
    )
    wait_until(lambda: get(stub, namespace, "iris").generation == 2, "the server sees their change")
    request = pb.DeployRequest(namespace=namespace, name="iris", spec=container(env={"V": "2"}))
    refusal = refused(StatusCode.FAILED_PRECONDITION, "FIELD_CONFLICT", stub.Deploy, request)
    assert refusal.metadata["owner"] == "their-tool"
    assert refusal.metadata["fields"] == "spec.predictor.containers"
    request.force = True
    assert stub.Deploy(request).action == Action.ACTION_UPDATED
    assert get(stub, namespace, "iris").spec == request.spec


def test_a_namespace_that_is_going_takes_nothing_in(lab: Lab, stub: ModelServiceStub) -> None:
    metadata = {"name": "going", "finalizers": ["example.com/held"]}
    held = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | {"namespace": "going"}}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "going"}}
    lab.apply(manifest)
    lab.apply(held)
    lab.delete(manifest)
    request = pb.DeployRequest(namespace="going", name="iris", spec=model())
    refused(StatusCode.FAILED_PRECONDITION, "NAMESPACE_TERMINATING", stub.Deploy, request)
    lab.apply(held | {"metadata": metadata | {"namespace": "going", "finalizers": []}})
