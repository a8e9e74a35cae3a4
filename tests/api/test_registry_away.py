"""A server without a registry, and one whose registry does not answer: everything else goes on."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2_grpc
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.model_service_pb2 import GetRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from tests.patience import PATIENCE_SECONDS
from tests.refusals import Refusal, refusal_of, refused
from tests.serving import Served, serving, settings

from .registry_project import Project
from .requests import deploy, eventually
from .test_health import NOT_SERVING, SERVING, status

SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"]
REQUESTS = {
    "CreateRegisteredModel": {"model": {"project": "p", "name": "m"}},
    "UpdateRegisteredModel": {"model": {"project": "p", "name": "m"}},
    "CreateModelVersion": {
        "version": {"project": "p", "model": "m", "version": "1", "image": "example.org/m:1"}
    },
    "UpdateModelVersion": {"version": {"project": "p", "model": "m", "version": "1"}},
    "CreateServingEnvironment": {"environment": {"project": "p", "name": "e"}},
    "UpdateServingEnvironment": {"environment": {"project": "p", "name": "e"}},
}
FIELDS = {"project": "p", "name": "m", "model": "m", "version": "1", "id": "d"}


@contextmanager
def channel_to(served: Served) -> Iterator[grpc.Channel]:
    served.wait_until_synced()
    with grpc.insecure_channel(served.address) as channel:
        yield channel


@pytest.mark.parametrize("method", SERVICE.methods_by_name)
def test_without_a_registry_every_call_of_it_is_registry_disabled(method) -> None:
    request = SERVICE.methods_by_name[method].input_type._concrete_class
    has = request.DESCRIPTOR.fields_by_name
    fields = REQUESTS.get(method) or {f: text for f, text in FIELDS.items() if f in has}
    with serving(settings()) as served, channel_to(served) as channel:
        call = getattr(RegistryServiceStub(channel), method)
        refused(StatusCode.FAILED_PRECONDITION, "REGISTRY_DISABLED", call, request(**fields))


def test_without_a_registry_services_are_deployed_by_their_own_spec_only(name) -> None:
    with serving(settings()) as served, channel_to(served) as channel:
        stub = ModelServiceStub(channel)
        assert stub.Deploy(deploy(name)).rollout_id
        registered = Project(RegistryServiceStub(channel), "p").deploy()
        refused(StatusCode.FAILED_PRECONDITION, "REGISTRY_DISABLED", stub.Deploy, registered)
        with pytest.raises(grpc.RpcError) as raised:
            status(health_pb2_grpc.HealthStub(channel), "registry")
        assert raised.value.code() == StatusCode.NOT_FOUND


def test_a_registry_that_does_not_answer_stops_nothing_else_and_heals(name, tmp_path) -> None:
    file = tmp_path / "registry.db"
    with serving(settings(registry=f"sqlite:///{file}")) as served, channel_to(served) as channel:
        stub, health = ModelServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        project = Project(RegistryServiceStub(channel), "p")
        project.model()
        project.version()
        project.environment()
        with locked(file):
            for call, request in (
                (project.stub.UpdateRegisteredModel, project.model_update(description="x")),
                (stub.Deploy, project.deploy()),
            ):
                refusal = _refusal_of(call, request)
                assert (refusal.code, refusal.reason) == (
                    StatusCode.UNAVAILABLE,
                    "REGISTRY_UNAVAILABLE",
                )
                assert refusal.retry_after.total_seconds() > 0
                assert str(tmp_path) not in str(refusal.details)
            assert stub.Deploy(deploy(name)).rollout_id
            assert stub.Get(GetRequest(name=name)).service.name == name
            assert status(health, "") == SERVING
        assert project.update_model(description="healed").description == "healed"
        assert stub.Deploy(project.deploy()).service.deployment_id


def test_a_registry_that_is_away_shows_in_its_health() -> None:
    # Nothing listens there: the server starts, and says so.
    nowhere = "postgresql://nobody:secret@127.0.0.1:1/none"
    with serving(settings(registry=nowhere)) as served, channel_to(served) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        eventually("the registry is away", lambda: status(health, "registry") == NOT_SERVING)
        assert status(health, "") == SERVING
        began = time.monotonic()
        request = pb.ListRegisteredModelsRequest(project="p")
        refusal = _refusal_of(RegistryServiceStub(channel).ListRegisteredModels, request)
        assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE")
        assert "secret" not in str(refusal.details)
        assert time.monotonic() - began < PATIENCE_SECONDS


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another program writes the file and does not come to an end."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def _refusal_of(call, request) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=PATIENCE_SECONDS)
    return refusal_of(raised.value)
