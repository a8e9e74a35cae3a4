"""Deploy, Get, List and Delete by a real server on a real control plane."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab, wait_until
from tests.refusals import refused

from . import kubectl
from .asking import (
    MODEL,
    SKLEARN_IMAGE,
    Action,
    Spec,
    State,
    container,
    delete,
    deploy,
    get,
    model,
    scaling,
    wait_gone,
    wait_ready,
)
from .direct import is_ready
from .objects import stored, written, written_once_ready
from .recording import Recording

IMAGE_PREDICTOR = {
    "name": "kserve-container",
    "image": SKLEARN_IMAGE,
    "env": [{"name": "STORAGE_URI", "value": MODEL}],
}


def is_iris_image(predictor: dict[str, Any]) -> bool:
    [only] = predictor["containers"]
    return {key: only[key] for key in IMAGE_PREDICTOR} == IMAGE_PREDICTOR


def is_iris_model(predictor: dict[str, Any]) -> bool:
    told = predictor["model"]
    return bool(told["modelFormat"]["name"] == "sklearn" and told["storageUri"] == MODEL)


@pytest.mark.parametrize(
    ("spec", "agrees"),
    [(container(), is_iris_image), (model(), is_iris_model)],
    ids=["container", "model"],
)
def test_kubectl_agrees_from_deploy_to_delete(
    lab: Lab, stub: ModelServiceStub, spec: Spec, agrees: Any
) -> None:
    deployed = deploy(stub, "default", "sklearn-iris", spec)
    assert deployed.action == Action.ACTION_CREATED
    assert deployed.service.status.state != State.STATE_READY
    shown = kubectl.inference_service(lab, "default", "sklearn-iris")
    assert agrees(shown["spec"]["predictor"])
    assert shown["metadata"]["uid"] == deployed.service.uid

    ready = wait_ready(stub, "default", "sklearn-iris", deployed.rollout_id)
    assert ready.status.state == State.STATE_READY
    # KServe may say so later, and writes more of its status then.
    wait_until(
        lambda: is_ready(kubectl.inference_service(lab, "default", "sklearn-iris")),
        "kubectl shows it Ready",
    )
    heard = Recording(stub, "default", "sklearn-iris")
    wait_until(
        lambda: heard.services[-1:] == [get(stub, "default", "sklearn-iris")],
        "Get and the watch tell the same",
    )
    heard.close()

    listed = stub.List(pb.ListRequest(namespace="default"))
    assert [s.name for s in listed.services] == ["sklearn-iris"]

    deleting = delete(stub, "default", "sklearn-iris")
    assert deleting.service.status.state == State.STATE_DELETING
    wait_gone(stub, "default", "sklearn-iris")
    assert not kubectl.exists(lab, "default", "sklearn-iris")
    request = pb.GetRequest(namespace="default", name="sklearn-iris")
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Get, request)
    assert not stub.List(pb.ListRequest(namespace="default")).services


def test_without_a_namespace_it_is_model_serving(lab: Lab, stub: ModelServiceStub) -> None:
    deployed = deploy(stub, "", "at-home", model())
    assert deployed.service.namespace == "model-serving"
    assert kubectl.exists(lab, "model-serving", "at-home")
    assert "at-home" in [s.name for s in stub.List(pb.ListRequest()).services]
    assert get(stub, "", "at-home").uid == deployed.service.uid
    delete(stub, "", "at-home")
    wait_gone(stub, "", "at-home")


RICH = {
    "container": services_pb.InferenceServiceSpec(
        container=services_pb.ContainerPredictor(
            image="registry.example/iris:1", command=["serve"], args=["--fast"], port=8081
        ),
        env={"STORAGE_URI": MODEL, "B": "2", "A": "1", "EMPTY": ""},
        secret_env={"TOKEN": services_pb.SecretKeyRef(secret="hub", key="token")},
        resources=services_pb.Resources(
            requests={"cpu": "500m", "memory": "3Gi"}, limits={"nvidia.com/gpu": "1"}
        ),
        scaling=services_pb.Scaling(min_replicas=1, max_replicas=4, target=75, metric="cpu"),
        service_account="loader",
        image_pull_policy="IfNotPresent",
        deployment_mode="Standard",
        node_selector={"kubernetes.io/os": "linux"},
        tolerations=[
            services_pb.Toleration(key="gpu", operator="Exists", effect="NoSchedule"),
            services_pb.Toleration(
                key="flaky", value="yes", effect="NoExecute", toleration_seconds=60
            ),
        ],
        request_timeout=Duration(seconds=300),
    ),
    "model": services_pb.InferenceServiceSpec(
        model=services_pb.ModelPredictor(
            format=services_pb.ModelFormat(name="sklearn", version="1"),
            storage_uri=MODEL,
            runtime="kserve-sklearnserver",
            protocol_version="v1",
            args=["--workers=2"],
        ),
        env={"LOG": "debug"},
        resources=services_pb.Resources(requests={"memory": "1Gi"}),
    ),
    "plain": model(),
}


@pytest.mark.parametrize("kind", RICH)
def test_what_get_gives_given_back_to_deploy_changes_nothing(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, kind: str
) -> None:
    labels, annotations = {"team": "iris"}, {"example.com/owner": "flowers"}
    first = deploy(stub, namespace, "iris", RICH[kind], labels=labels, annotations=annotations)
    assert first.service.spec == RICH[kind]
    wait_until(lambda: "status" in stored(cluster, namespace, "iris"), "KServe has looked at it")

    shown = get(stub, namespace, "iris")
    assert (shown.labels, shown.annotations) == (labels, annotations)
    fields = {"labels": shown.labels, "annotations": shown.annotations, "etag": shown.etag}
    again = deploy(stub, namespace, "iris", shown.spec, **fields)

    assert again.action == Action.ACTION_UNCHANGED
    assert again.rollout_id == first.rollout_id
    assert get(stub, namespace, "iris").etag == shown.etag


def test_an_identical_deploy_leaves_the_object_untouched(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    first = deploy(stub, namespace, "iris", model())
    before = written_once_ready(cluster, stub, namespace, "iris", first.rollout_id)
    again = deploy(stub, namespace, "iris", model())
    assert again.action == Action.ACTION_UNCHANGED
    assert again.rollout_id == first.rollout_id
    assert written(cluster, namespace, "iris") == before


def test_a_bare_restart_keeps_the_spec_and_its_retry_changes_nothing(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    first = deploy(stub, namespace, "iris", container(), labels={"team": "iris"})
    wait_ready(stub, namespace, "iris", first.rollout_id)

    restarted = deploy(stub, namespace, "iris", restart=True, request_id="ci-7")
    assert restarted.action == Action.ACTION_RESTARTED
    assert restarted.rollout_id != first.rollout_id
    assert restarted.service.spec == first.service.spec
    assert restarted.service.labels == {"team": "iris"}
    before = written_once_ready(cluster, stub, namespace, "iris", restarted.rollout_id)

    retried = deploy(stub, namespace, "iris", restart=True, request_id="ci-7")
    assert (retried.action, retried.rollout_id) == (restarted.action, restarted.rollout_id)
    assert written(cluster, namespace, "iris") == before


def test_validate_only_says_what_would_be_and_writes_nothing(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    would = deploy(stub, namespace, "iris", container(), validate_only=True)
    assert (would.action, would.rollout_id) == (Action.ACTION_CREATED, "")
    assert would.service.spec == container()
    request = pb.GetRequest(namespace=namespace, name="iris")
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Get, request)

    first = deploy(stub, namespace, "iris", container())
    before = written_once_ready(cluster, stub, namespace, "iris", first.rollout_id)
    again = deploy(stub, namespace, "iris", container(), validate_only=True)
    other = deploy(stub, namespace, "iris", model(), validate_only=True)
    delete(stub, namespace, "iris", validate_only=True)
    assert (again.action, again.rollout_id) == (Action.ACTION_UNCHANGED, "")
    assert (other.action, other.rollout_id) == (Action.ACTION_UPDATED, "")
    assert other.service.spec == model()
    assert written(cluster, namespace, "iris") == before


def test_create_only_leaves_what_is_there(stub: ModelServiceStub, namespace: str) -> None:
    deploy(stub, namespace, "iris", container())
    request = pb.DeployRequest(namespace=namespace, name="iris", spec=model(), create_only=True)
    refused(StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", stub.Deploy, request)
    assert get(stub, namespace, "iris").spec == container()


def test_scaling_alone_is_an_update_with_a_rollout_of_its_own(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    first = deploy(stub, namespace, "iris", container())
    scaled = deploy(stub, namespace, "iris", container(scaling=scaling(2)))
    assert scaled.action == Action.ACTION_UPDATED
    assert scaled.rollout_id != first.rollout_id
    assert stored(cluster, namespace, "iris")["spec"]["predictor"]["minReplicas"] == 2
