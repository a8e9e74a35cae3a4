"""Nothing is deployed among the platform's own pods, whose accounts may do everything."""

from __future__ import annotations

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1.model_service_pb2 import DeleteRequest, GetRequest, ListRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.domain.service.inference_service import ServiceKey
from tests.refusals import refused
from tests.serving import serving, settings

from .registry_project import Project
from .requests import deploy, eventually

PLATFORM = ["kube-system", "kube-public", "knative-serving", "knative-eventing", "kserve"]


@pytest.mark.parametrize("namespace", PLATFORM)
def test_a_deploy_into_the_platforms_namespaces_is_refused(stub, memory, name, namespace) -> None:
    for validate_only in (True, False):
        request = deploy(name, namespace=namespace, validate_only=validate_only)
        refusal = refused(
            StatusCode.FAILED_PRECONDITION, "RESERVED_NAMESPACE", stub.Deploy, request
        )
        assert refusal.metadata == {"namespace": namespace}
        assert "MODELSERVICE_PERMIT_RESERVED_NAMESPACES" in refusal.message
    assert not stub.List(ListRequest(namespace=namespace)).services


def test_so_is_one_of_a_registered_model_whose_environment_is_there(stub, project: Project) -> None:
    project.model()
    project.version()
    project.environment(namespace="kube-system")
    refused(StatusCode.FAILED_PRECONDITION, "RESERVED_NAMESPACE", stub.Deploy, project.deploy())


def test_what_somebody_else_made_there_can_be_read_and_deleted(stub, memory, name) -> None:
    memory.put_unmanaged(ServiceKey("kserve", name), None)
    listing = ListRequest(namespace="kserve")
    eventually("it is seen", lambda: name in {s.name for s in stub.List(listing).services})
    assert stub.Get(GetRequest(namespace="kserve", name=name)).service.unmanaged
    stub.Delete(DeleteRequest(namespace="kserve", name=name, force=True))


def test_an_operator_can_permit_one_by_name(name) -> None:
    permitting = settings(serving={"permit_reserved_namespaces": frozenset({"kube-models"})})
    with serving(permitting) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        stub = ModelServiceStub(channel)
        stub.Deploy(deploy(name, namespace="kube-models"))
        refused(
            StatusCode.FAILED_PRECONDITION,
            "RESERVED_NAMESPACE",
            stub.Deploy,
            deploy(name, namespace="kube-system"),
        )
