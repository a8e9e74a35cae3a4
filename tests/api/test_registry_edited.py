"""What is deployed from the registry and then edited by somebody else stays its project's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from grpc import RpcError, StatusCode
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import DeleteRequest, DeployResponse, GetRequest
from modelservice.v1.registry_pb2 import ModelDeployment

from server.domain.service.commands import SERVICE_ID_LABEL
from server.domain.service.inference_service import ServiceKey
from tests.refusals import refused

from .registry_project import Project
from .requests import eventually

EDIT = {"disk": "ssd"}
DELETES = {
    "RegisteredModel": {"name": "fraud"},
    "ModelVersion": {"model": "fraud", "version": "1"},
    "ServingEnvironment": {"name": "staging"},
}


def register(project: Project, namespace: str) -> None:
    project.model()
    project.version("1")
    project.environment(namespace=namespace)


@pytest.fixture
def edited(stub, project, name, grpc_server) -> InferenceService:
    """A service that runs version 1 as somebody else has it, deployed so once more; no record of
    it is open."""
    register(project, name)
    service = stub.Deploy(project.deploy("1")).service
    key = ServiceKey(name, service.name)

    def edit() -> None:
        store = grpc_server.memory.store
        held = store.service(key)
        spec = replace(held.spec, node_selector=EDIT)
        store.change(replace(held, spec=spec, generation=held.generation + 1))

    grpc_server.inside(edit)
    eventually("SUPERSEDED", lambda: states(project) == [ModelDeployment.STATE_SUPERSEDED])
    again = stub.Deploy(project.deploy("1", node_selector=EDIT))
    assert again.action == DeployResponse.ACTION_UNCHANGED
    assert again.service.deployment_id == service.deployment_id
    assert states(project) == [ModelDeployment.STATE_SUPERSEDED]
    return again.service


def states(project: Project) -> list[int]:
    request = pb.ListModelDeploymentsRequest(project=project.name)
    return [record.state for record in project.stub.ListModelDeployments(request).deployments]


@pytest.mark.parametrize(("kind", "names"), DELETES.items())
def test_what_it_runs_is_not_deleted_until_it_is_gone(
    stub, project, registry_stub, memory, edited, kind, names
) -> None:
    delete = getattr(registry_stub, f"Delete{kind}")
    request = getattr(pb, f"Delete{kind}Request")(project=project.name, **names)
    refusal = refused(StatusCode.FAILED_PRECONDITION, "IN_USE", delete, request)
    assert refusal.metadata["used_by"] == f"{edited.namespace}/{edited.name}"
    key = ServiceKey(edited.namespace, edited.name)
    stub.Delete(DeleteRequest(namespace=key.namespace, name=key.name))
    memory.finish_delete(key)
    eventually("gone", lambda: is_gone(stub, key))
    delete(request)


def is_gone(stub, key: ServiceKey) -> bool:
    try:
        stub.Get(GetRequest(namespace=key.namespace, name=key.name))
    except RpcError as error:
        return error.code() is StatusCode.NOT_FOUND
    return False


def test_another_project_gets_its_name_by_force_only(stub, project, registry_stub, edited) -> None:
    other = Project(registry_stub, f"{project.name}-too")
    register(other, edited.namespace)
    taking = other.deploy("1", name=edited.name)
    refused(StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", stub.Deploy, taking)
    assert states(other) == []
    taking.force = True
    assert stub.Deploy(taking).service.spec.registered_model.project == other.name


def test_its_own_project_deploys_to_it_as_ever(stub, project, edited) -> None:
    again = stub.Deploy(project.deploy("1", name=edited.name, env={"LOG": "info"}))
    assert again.action == DeployResponse.ACTION_UPDATED
    assert again.service.deployment_id != edited.deployment_id


def test_a_copy_of_it_under_another_name_is_nobodys(stub, project, memory, edited) -> None:
    labels = {SERVICE_ID_LABEL: "of what it is a copy of"}
    key = ServiceKey(edited.namespace, "copy")
    memory.put_unmanaged(key, None, labels)
    eventually("seen", lambda: not is_gone(stub, key))
    copying = project.deploy("1", name="copy")
    refused(StatusCode.FAILED_PRECONDITION, "NOT_MANAGED", stub.Deploy, copying)
