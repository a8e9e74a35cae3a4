"""What services take of the server's memory has a bound, and only what adds to it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import psutil
import pytest
from grpc import StatusCode
from modelservice.v1 import registry_service_pb2 as registry_pb
from modelservice.v1.inference_service_pb2 import InferenceServiceSpec, ModelFormat, ModelPredictor
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    DeployRequest,
    DeployResponse,
    GetRequest,
    ListRequest,
)
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from server.domain.service.commands import Applied, Deploy
from server.domain.service.inference_service import ServiceKey
from tests.adapters.local.server_process import server
from tests.patience import PATIENCE_SECONDS
from tests.refusals import Refusal, refused
from tests.serving import Served, serving, settings

from .registry_project import Project
from .requests import eventually

EXHAUSTED = StatusCode.RESOURCE_EXHAUSTED
NAMESPACE = "model-serving"
KIB = 2**10
SERVICES = 8


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of which services may have 1 MiB."""
    url = f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.db"
    with serving(settings({"services_memory": "1Mi"}, registry=url)) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture(autouse=True)
def empty(stub: ModelServiceStub, memory) -> Iterator[None]:
    yield
    for service in stub.List(ListRequest(namespace=NAMESPACE)).services:
        stub.Delete(DeleteRequest(namespace=NAMESPACE, name=service.name))
        memory.finish_delete(ServiceKey(NAMESPACE, service.name))


class Held:
    """The cluster's writes: none is done until they are released."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._released, self._begun = asyncio.Event(), 0
        self._apply = served.memory.apply

    async def apply(self, deploy: Deploy) -> Applied:
        self._begun += 1
        await self._released.wait()
        return await self._apply(deploy)

    def wait_for(self, writes: int) -> None:
        """Until so many have begun in all."""
        eventually(f"{writes} writes have begun", lambda: self._begun == writes)

    def release(self) -> None:
        self._served.inside(self._released.set)


@pytest.fixture
def held(grpc_server: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(grpc_server)
    with monkeypatch.context() as patched:
        patched.setattr(grpc_server.memory, "apply", held.apply)
        yield held
        held.release()


def of_size(kib: int, name: str = "large", **fields: object) -> DeployRequest:
    """A Deploy whose variables have so many KiB."""
    env = {f"V{i}": "x" * 100 * KIB for i in range(kib // 100)} | {"REST": "x" * (kib % 100) * KIB}
    files = ModelPredictor(format=ModelFormat(name="sklearn"), storage_uri="/nowhere")
    return DeployRequest(name=name, spec=InferenceServiceSpec(model=files, env=env), **fields)


def refused_for_memory(stub: ModelServiceStub, request: DeployRequest) -> Refusal:
    call = partial(stub.Deploy, timeout=PATIENCE_SECONDS)
    refusal = refused(EXHAUSTED, "MEMORY_EXCEEDED", call, request)
    assert "MODELSERVICE_SERVICES_MEMORY" in refusal.message
    return refusal


def test_a_deploy_that_adds_too_much_is_refused_and_nothing_else_is(
    stub: ModelServiceStub, memory
) -> None:
    first, second = of_size(400, "first"), of_size(500, "second")
    stub.Deploy(first)
    stub.Deploy(second)
    refusal = refused_for_memory(stub, of_size(100, "third"))
    held, added, most = (int(refusal.metadata[key]) for key in ("held", "added", "most"))
    assert most == 2**20
    assert 900 * KIB < held <= most < held + added
    refused_for_memory(stub, of_size(100, "third", validate_only=True))
    refused_for_memory(stub, of_size(500, "first"))
    # What adds nothing: the same again, a restart, a smaller one, reads and a deletion.
    assert stub.Deploy(first).action == DeployResponse.ACTION_UNCHANGED
    stub.Deploy(DeployRequest(name="first", restart=True))
    assert len(stub.List(ListRequest(namespace=NAMESPACE)).services) == 2
    assert stub.Get(GetRequest(name="second")).service.spec == second.spec
    stub.Deploy(of_size(300, "first"))
    stub.Deploy(of_size(100, "third"))
    refused_for_memory(stub, of_size(200, "fourth"))
    stub.Delete(DeleteRequest(name="second"))
    memory.finish_delete(ServiceKey(NAMESPACE, "second"))
    stub.Deploy(of_size(200, "fourth"))


def test_characters_that_take_more_memory_count_more(stub: ModelServiceStub) -> None:
    wide = of_size(300)
    for name in list(wide.spec.env):
        wide.spec.env[name] = wide.spec.env[name][1:-1] + "\N{GRINNING FACE}"
    refused_for_memory(stub, wide)


def test_many_small_texts_count_what_they_take(stub: ModelServiceStub) -> None:
    first, second = of_size(0, "first"), of_size(0, "second")
    for many in (first, second):
        many.spec.env.update({f"E{i}": "" for i in range(900)})
    stub.Deploy(first)
    assert int(refused_for_memory(stub, second).metadata["added"]) > 900 * KIB


def test_deploys_at_the_same_time_do_not_share_the_room_that_is_left(
    stub: ModelServiceStub, held: Held
) -> None:
    under_way = [stub.Deploy.future(of_size(300, f"at-once-{number}")) for number in range(3)]
    held.wait_for(3)
    refused_for_memory(stub, of_size(300, "at-once-3"))
    held.release()
    assert [call.code() for call in under_way] == [StatusCode.OK] * 3


def test_deploys_of_one_service_at_the_same_time_take_the_room_of_the_largest(
    stub: ModelServiceStub, held: Held
) -> None:
    sizes = (300, 300, 500, 100)
    under_way = [stub.Deploy.future(of_size(kib, "same")) for kib in sizes]
    under_way.append(stub.Deploy.future(of_size(300, "other")))
    held.wait_for(5)
    refused_for_memory(stub, of_size(300, "third"))
    held.release()
    assert [call.code() for call in under_way] == [StatusCode.OK] * 5


def test_a_registered_model_is_refused_for_memory_as_well_and_leaves_no_record(
    stub: ModelServiceStub, grpc_channel: grpc.Channel
) -> None:
    registry = RegistryServiceStub(grpc_channel)
    project = Project(registry, "memory")
    project.model()
    project.version()
    large = {f"V{i}": "x" * 100 * KIB for i in range(4)}
    project.environment(namespace=NAMESPACE, defaults=InferenceServiceSpec(env=large))
    stub.Deploy(of_size(500, "first"))
    stub.Deploy(of_size(300, "second"))
    refused_for_memory(stub, project.deploy())
    records = registry_pb.ListModelDeploymentsRequest(project="memory")
    assert not registry.ListModelDeployments(records).deployments
    stub.Deploy(of_size(0, "second"))
    stub.Deploy(project.deploy())
    assert len(registry.ListModelDeployments(records).deployments) == 1


@pytest.mark.processes
def test_on_this_machine_the_largest_take_less_than_thrice_what_they_count_until_they_are_refused(
    tmp_path: Path,
) -> None:
    def largest(name: str) -> DeployRequest:
        return of_size(500, name, annotations={"note": name.ljust(200 * KIB, "y")})

    room = SERVICES * 730 * KIB
    with server(tmp_path, MODELSERVICE_SERVICES_MEMORY=str(room)) as running:
        process = psutil.Process(running.process.pid)
        running.stub.Deploy(largest("warm"))
        running.stub.Delete(DeleteRequest(name="warm"))
        running.wait_until_gone("warm")
        before = process.memory_info().rss
        for number in range(SERVICES):
            running.stub.Deploy(largest(f"large-{number}"))
            running.stub.Get(GetRequest(name=f"large-{number}"))
        refused_for_memory(running.stub, largest("more"))
        # Beside what is kept: what is answered, and the records as they are written.
        assert process.memory_info().rss - before < 3 * room
        running.stub.Delete(DeleteRequest(name="large-0"))
        running.wait_until_gone("large-0")
        running.stub.Deploy(largest("more"))
