"""Deploying a registered model by name, through the door."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from grpc import StatusCode
from modelservice.v1 import registry_service_pb2 as api
from modelservice.v1.inference_service_pb2 import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    RegisteredModelPredictor,
    Scaling,
)
from modelservice.v1.model_service_pb2 import (
    DeployRequest,
    DeployResponse,
    GetRequest,
    ListRequest,
)
from modelservice.v1.registry_pb2 import (
    ModelDeployment,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
)
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from tests.refusals import refused

from .requests import deploy

SKLEARN = ModelFormat(name="sklearn")
IMAGE = "registry.example/fraud:2"

_projects = itertools.count(1)


@pytest.fixture
def registry(grpc_channel: Any) -> RegistryServiceStub:
    return RegistryServiceStub(grpc_channel)


@pytest.fixture
def project(registry: RegistryServiceStub) -> str:
    """A project with the model `fraud`, its versions 1 (files) and 2 (an image), and `staging`, in
    a namespace of its own."""
    name = f"project-{next(_projects)}"
    model = RegisteredModel(project=name, name="fraud", labels={"team": "risk"})
    registry.CreateRegisteredModel(api.CreateRegisteredModelRequest(model=model))
    for version in (
        ModelVersion(version="1", storage_uri="s3://models/fraud/1", format=SKLEARN),
        ModelVersion(version="2", image=IMAGE),
    ):
        version.project, version.model = name, "fraud"
        registry.CreateModelVersion(api.CreateModelVersionRequest(version=version))
    environment = ServingEnvironment(project=name, name="staging", namespace=f"ns-{name}")
    environment.defaults.env["LOG"] = "info"
    registry.CreateServingEnvironment(api.CreateServingEnvironmentRequest(environment=environment))
    return name


def request_for(project: str, version: str = "1", **fields: Any) -> DeployRequest:
    predictor = RegisteredModelPredictor(
        project=project, model="fraud", version=version, environment="staging"
    )
    return DeployRequest(spec=InferenceServiceSpec(registered_model=predictor), **fields)


def records(registry: RegistryServiceStub, project: str) -> list[ModelDeployment]:
    answer = registry.ListModelDeployments(api.ListModelDeploymentsRequest(project=project))
    return list(answer.deployments)


def test_the_response_has_the_resolved_spec_and_the_record_its_rollout(
    stub, registry, project
) -> None:
    answer = stub.Deploy(request_for(project))
    service = answer.service
    assert (service.namespace, service.name) == (f"ns-{project}", "fraud-staging")
    predictor = service.spec.registered_model
    assert (predictor.project, predictor.model, predictor.version) == (project, "fraud", "1")
    assert predictor.resolved_model == ModelPredictor(
        format=SKLEARN, storage_uri="s3://models/fraud/1"
    )
    assert service.spec.env == {"LOG": "info"}
    [record] = records(registry, project)
    assert (record.id, record.rollout_id) == (service.deployment_id, answer.rollout_id)
    assert (record.namespace, record.service) == (service.namespace, service.name)
    assert record.service_uid == service.uid


def test_a_version_with_an_image_is_a_container(stub, project) -> None:
    service = stub.Deploy(request_for(project, "2")).service
    predictor = service.spec.registered_model
    assert predictor.resolved_container == ContainerPredictor(image=IMAGE)
    assert not predictor.HasField("resolved_model")


def test_what_get_gives_given_back_to_deploy_changes_nothing(stub, registry, project) -> None:
    first = stub.Deploy(request_for(project, "", labels={"team": "a"}))
    got = stub.Get(GetRequest(namespace=first.service.namespace, name=first.service.name)).service
    assert got.spec.registered_model.version == "2"
    assert got.deployment_id == first.service.deployment_id
    again = stub.Deploy(
        DeployRequest(
            namespace=got.namespace, name=got.name, spec=got.spec, labels=got.labels, etag=got.etag
        )
    )
    assert again.action == DeployResponse.ACTION_UNCHANGED
    assert again.rollout_id == first.rollout_id
    assert len(records(registry, project)) == 1


def test_services_are_found_by_the_ids_of_the_registry(stub, registry, project) -> None:
    made = stub.Deploy(request_for(project)).service
    version = registry.GetModelVersion(
        api.GetModelVersionRequest(project=project, model="fraud", version="1")
    ).version
    selector = f"modelservice.dev/model-version-id={version.id}"
    found = stub.List(ListRequest(namespace="-", label_selector=selector)).services
    assert [service.uid for service in found] == [made.uid]
    assert not made.labels


def test_a_plain_deploy_over_it_is_of_no_registry_any_more(stub, project) -> None:
    made = stub.Deploy(request_for(project)).service
    bare = stub.Deploy(deploy(made.name, namespace=made.namespace))
    assert bare.action == DeployResponse.ACTION_UPDATED
    assert bare.service.deployment_id == ""
    assert bare.service.spec.HasField("container")


def test_other_wrong_fields_are_reported_with_their_paths(stub, project) -> None:
    asked = request_for(project, name="Fraud")
    asked.spec.env["A=B"] = "1"
    asked.spec.scaling.CopyFrom(Scaling(min_replicas=3, max_replicas=1))
    refusal = refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.Deploy, asked)
    assert sorted(refusal.fields) == ["name", 'spec.env["A=B"]', "spec.scaling.min_replicas"]


def test_another_namespace_than_the_environments_is_refused(stub, project) -> None:
    asked = request_for(project, namespace="elsewhere")
    refusal = refused(
        StatusCode.FAILED_PRECONDITION, "ENVIRONMENT_NAMESPACE_FIXED", stub.Deploy, asked
    )
    assert refusal.metadata == {"namespace": f"ns-{project}"}


def test_what_a_caller_gives_as_resolved_is_not_looked_at(stub, project) -> None:
    asked = request_for(project)
    asked.spec.registered_model.resolved_container.image = "registry.example/evil:1"
    service = stub.Deploy(asked).service
    assert service.spec.registered_model.HasField("resolved_model")
