"""Deploys of registered models, and the records of them, through a stub."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import (
    InferenceServiceSpec,
    ModelPredictor,
    RegisteredModelPredictor,
    Scaling,
)
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    DeployRequest,
    DeployResponse,
    GetRequest,
)
from modelservice.v1.registry_pb2 import ModelDeployment

from server.domain.service.inference_service import ServiceKey
from tests.refusals import refused

from .registry_project import ARCHIVED, FILES, PENDING
from .requests import eventually

INVALID, NOT_FOUND = StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND
REFUSED = StatusCode.FAILED_PRECONDITION


@pytest.fixture(autouse=True)
def _registered(project, name) -> None:
    """A model with two versions, and an environment with a namespace of its own."""
    project.model()
    project.version("1")
    project.version("2", image="example.org/fraud:2")
    project.environment(
        namespace=name, defaults=InferenceServiceSpec(env={"LOG": "info", "MODE": "fast"})
    )


def records(project, **fields) -> list[ModelDeployment]:
    request = pb.ListModelDeploymentsRequest(project=project.name, **fields)
    return list(project.stub.ListModelDeployments(request).deployments)


def test_a_deploy_answers_what_the_names_stand_for(stub, project, name) -> None:
    options = {"env": {"MODE": "slow"}, "request_timeout": Duration(seconds=30)}
    service = stub.Deploy(project.deploy("1", **options)).service
    assert (service.namespace, service.name) == (name, "fraud-staging")
    assert service.deployment_id
    assert service.spec.env == {"LOG": "info", "MODE": "slow"}
    registered = service.spec.registered_model
    assert (registered.project, registered.model) == (project.name, "fraud")
    assert (registered.version, registered.environment) == ("1", "staging")
    assert registered.resolved_model == ModelPredictor(
        storage_uri=FILES["storage_uri"], format=FILES["format"]
    )
    got = stub.Get(GetRequest(namespace=name, name="fraud-staging")).service
    assert (got.spec, got.deployment_id) == (service.spec, service.deployment_id)


def test_a_version_of_an_image_runs_as_a_container(stub, project) -> None:
    registered = stub.Deploy(project.deploy("2")).service.spec.registered_model
    assert registered.WhichOneof("resolved") == "resolved_container"
    assert registered.resolved_container.image == "example.org/fraud:2"


def test_what_a_get_answers_can_be_deployed_again_and_is_unchanged(stub, project, name) -> None:
    first = stub.Deploy(project.deploy()).service
    # What it is resolved to is output only.
    first.spec.registered_model.resolved_model.storage_uri = "s3://else/where"
    again = stub.Deploy(DeployRequest(namespace=name, name=first.name, spec=first.spec))
    assert again.action == DeployResponse.ACTION_UNCHANGED
    assert again.service.deployment_id == first.deployment_id
    assert len(records(project)) == 1


def test_a_dry_run_is_no_deployment(stub, project) -> None:
    request = project.deploy()
    request.validate_only = True
    service = stub.Deploy(request).service
    assert service.spec.registered_model.version == "2"
    assert service.deployment_id == ""
    assert records(project) == []


def test_a_record_has_the_model_and_the_service_of_a_deployment(
    stub, project, name, registry_stub
) -> None:
    answer = stub.Deploy(project.deploy("1"))
    (record,) = records(project)
    assert record.id == answer.service.deployment_id
    assert (record.project, record.model) == (project.name, "fraud")
    assert (record.version, record.environment) == ("1", "staging")
    assert (record.namespace, record.service) == (name, "fraud-staging")
    assert record.service_uid == answer.service.uid
    assert record.rollout_id == answer.rollout_id
    assert record.desired_state == ModelDeployment.DESIRED_STATE_DEPLOYED
    assert record.create_time.seconds
    request = pb.GetModelDeploymentRequest(project=project.name, id=record.id)
    assert registry_stub.GetModelDeployment(request).deployment.create_time == record.create_time


def test_a_record_follows_its_service_to_the_end(stub, project, memory, name) -> None:
    first = stub.Deploy(project.deploy("1")).service
    _becomes(project, first.deployment_id, ModelDeployment.STATE_DEPLOYED)
    second = stub.Deploy(project.deploy("2")).service
    superseded = _becomes(project, first.deployment_id, ModelDeployment.STATE_SUPERSEDED)
    running = _becomes(project, second.deployment_id, ModelDeployment.STATE_DEPLOYED)
    assert superseded.HasField("ready_time")
    assert superseded.HasField("end_time")
    assert running.HasField("ready_time")
    assert not running.HasField("end_time")
    stub.Delete(DeleteRequest(namespace=name, name=second.name))
    memory.finish_delete(ServiceKey(name, second.name))
    ended = _becomes(project, second.deployment_id, ModelDeployment.STATE_UNDEPLOYED)
    assert ended.desired_state == ModelDeployment.DESIRED_STATE_UNDEPLOYED
    assert ended.HasField("end_time")


def _becomes(project, deployment_id: str, state: int) -> ModelDeployment:
    request = pb.GetModelDeploymentRequest(project=project.name, id=deployment_id)

    def record() -> ModelDeployment:
        return project.stub.GetModelDeployment(request).deployment

    eventually(ModelDeployment.State.Name(state), lambda: record().state == state)
    return record()


def test_a_record_is_read_in_its_own_project_only(stub, project, registry_stub) -> None:
    deployment_id = stub.Deploy(project.deploy()).service.deployment_id
    call = registry_stub.GetModelDeployment
    for request in (
        pb.GetModelDeploymentRequest(project="else", id=deployment_id),
        pb.GetModelDeploymentRequest(project=project.name, id="nothing"),
    ):
        refused(NOT_FOUND, "DEPLOYMENT_NOT_FOUND", call, request)


def test_records_are_found_by_every_filter(stub, project, name) -> None:
    first = stub.Deploy(project.deploy("1")).service.deployment_id
    second = stub.Deploy(project.deploy("2")).service.deployment_id
    other = stub.Deploy(project.deploy("2", name="other")).service.deployment_id
    everything = [record.id for record in records(project)]
    assert everything == [other, second, first]
    made = {record.id: record.create_time for record in records(project)}
    for fields, expected in (
        ({"model": "fraud"}, everything),
        ({"model": "else"}, []),
        ({"version": "2"}, [other, second]),
        ({"environment": "staging", "version": "1"}, [first]),
        ({"namespace": name}, everything),
        ({"namespace": "else"}, []),
        ({"service": "other"}, [other]),
        ({"states": [ModelDeployment.STATE_UNDEPLOYED]}, []),
        ({"created_after": made[first]}, [other, second]),
        ({"created_before": made[other]}, [second, first]),
        ({"created_after": made[first], "created_before": made[other]}, [second]),
    ):
        assert [record.id for record in records(project, **fields)] == expected, fields


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"states": [0]}, "states[0]"),
        ({"states": [1, 77]}, "states[1]"),
        ({"created_after": Timestamp(nanos=-1)}, "created_after"),
        ({"created_before": Timestamp(seconds=2**62)}, "created_before"),
        ({"page_size": -1}, "page_size"),
        ({"model": "No Model"}, "model"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(project, registry_stub, fields, path) -> None:
    request = pb.ListModelDeploymentsRequest(project=project.name, **fields)
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.ListModelDeployments, request)
    assert refusal.fields == [path]


def test_what_is_deployed_is_not_deleted(stub, project, registry_stub, name) -> None:
    stub.Deploy(project.deploy("1"))
    for call, request in (
        (
            registry_stub.DeleteRegisteredModel,
            pb.DeleteRegisteredModelRequest(project=project.name, name="fraud"),
        ),
        (
            registry_stub.DeleteModelVersion,
            pb.DeleteModelVersionRequest(project=project.name, model="fraud", version="1"),
        ),
        (
            registry_stub.DeleteServingEnvironment,
            pb.DeleteServingEnvironmentRequest(project=project.name, name="staging"),
        ),
    ):
        refusal = refused(REFUSED, "IN_USE", call, request)
        assert refusal.metadata["used_by"] == f"{name}/fraud-staging"


def test_names_that_stand_for_nothing_that_can_be_deployed_are_refused(stub, project, name) -> None:
    project.version("3", state=PENDING)
    project.version("4", state=ARCHIVED)
    for version, code, reason in (
        ("3", REFUSED, "VERSION_NOT_READY"),
        ("4", REFUSED, "VERSION_ARCHIVED"),
        ("5", NOT_FOUND, "VERSION_NOT_FOUND"),
    ):
        refused(code, reason, stub.Deploy, project.deploy(version))
    elsewhere = project.deploy()
    elsewhere.namespace = f"{name}-x"
    refused(REFUSED, "ENVIRONMENT_NAMESPACE_FIXED", stub.Deploy, elsewhere)
    for field, reason in (("model", "MODEL_NOT_FOUND"), ("environment", "ENVIRONMENT_NOT_FOUND")):
        request = project.deploy()
        setattr(request.spec.registered_model, field, "else")
        refused(NOT_FOUND, reason, stub.Deploy, request)
    assert records(project) == []


def test_a_model_without_a_ready_version_cannot_be_deployed(stub, project) -> None:
    for version in ("1", "2"):
        project.update_version(version=version, state=ARCHIVED)
    refused(REFUSED, "NO_DEPLOYABLE_VERSION", stub.Deploy, project.deploy())


def test_impossible_names_are_reported_by_their_paths(stub) -> None:
    spec = InferenceServiceSpec(
        registered_model=RegisteredModelPredictor(model="No", version="-", environment="")
    )
    refusal = refused(INVALID, "FIELD_INVALID", stub.Deploy, DeployRequest(spec=spec))
    assert set(refusal.fields) == {
        "spec.registered_model.project",
        "spec.registered_model.model",
        "spec.registered_model.version",
        "spec.registered_model.environment",
    }


def test_a_change_of_scaling_alone_stays_the_same_deployment(stub, project) -> None:
    first = stub.Deploy(project.deploy("1")).service.deployment_id
    scaled = stub.Deploy(project.deploy("1", scaling=Scaling(min_replicas=2, max_replicas=3)))
    assert scaled.action == DeployResponse.ACTION_UPDATED
    assert scaled.service.deployment_id == first
    assert [record.id for record in records(project)] == [first]
