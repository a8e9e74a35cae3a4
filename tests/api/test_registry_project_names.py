"""Projects have one syntax of names; those that were named before it stay in use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.model_service_pb2 import DeleteRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from server.adapters.sql.factory import opened_registry
from server.domain.registry.changes import new_environment, new_model, new_version
from server.domain.registry.registered import EnvironmentKey, ModelKey, VersionKey
from server.domain.registry.registry_commands import (
    EnvironmentContent,
    ModelContent,
    VersionContent,
)
from server.domain.service.inference_service import ModelFormat
from server.ports import RegistryWriting
from tests.refusals import refused
from tests.serving import serving, settings

from .registry_project import ARCHIVED, Project

INVALID = StatusCode.INVALID_ARGUMENT

# The two first are one word in two encodings; the others have what nobody sees.
OLD_PROJECTS = ("team \u00fc", "team u\u0308", "team\u200b", "\u202emaet", " ")


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A server on a registry that an earlier release has filled."""
    url = f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.db"
    asyncio.run(_fill(url))
    with (
        serving(settings(registry=url)) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        served.wait_until_synced()
        yield channel


@pytest.mark.parametrize("old", OLD_PROJECTS, ids=ascii)
def test_a_project_that_was_named_before_the_rule_stays_in_use(
    channel: grpc.Channel, old: str
) -> None:
    registry, service = RegistryServiceStub(channel), ModelServiceStub(channel)
    project = Project(registry, old)
    listed = registry.ListRegisteredModels(pb.ListRegisteredModelsRequest(project=old))
    assert [(model.project, model.name) for model in listed.models] == [(old, "fraud")]
    assert project.update_model("description", description="kept").description == "kept"
    assert project.version("2").version == "2"
    deployed = service.Deploy(project.deploy("2")).service
    record = pb.GetModelDeploymentRequest(project=old, id=deployed.deployment_id)
    assert registry.GetModelDeployment(record).deployment.project == old
    service.Delete(DeleteRequest(namespace=deployed.namespace, name=deployed.name))
    assert project.update_version("state", state=ARCHIVED).state == ARCHIVED
    delete = pb.DeleteModelVersionRequest(project=old, model="fraud", version="1")
    registry.DeleteModelVersion(delete)


@pytest.mark.parametrize("new", [*OLD_PROJECTS, "p" * 64, "Risk", "1st", "risk/eu"], ids=ascii)
def test_a_project_has_a_name_that_looks_like_no_other(channel: grpc.Channel, new: str) -> None:
    project = Project(RegistryServiceStub(channel), new)
    for make, path in ((project.model, "model"), (project.environment, "environment")):
        refusal = refused(INVALID, "FIELD_INVALID", make, "another")
        assert refusal.fields == [f"{path}.project"]
        assert refusal.message.startswith(f"{path}.project: must have ")
        assert refusal.message.endswith("got 64" if len(new) > 63 else f"got {new!a}")


async def _fill(url: str) -> None:
    async with opened_registry(url) as registry:
        for number, project in enumerate(OLD_PROJECTS):

            async def work(tx: RegistryWriting, name: str = project, nth: int = number) -> None:
                await _add_to(tx, name, f"old-{nth}")

            await registry.write(work)


async def _add_to(tx: RegistryWriting, project: str, namespace: str) -> None:
    now, key = datetime.now(UTC), ModelKey(project, "fraud")
    files = VersionContent("s3://models/fraud/1", format=ModelFormat("sklearn"))
    place = EnvironmentKey(project, "staging")
    await tx.add(new_model(key, str(uuid4()), ModelContent(), now))
    await tx.add(new_version(VersionKey(*key, "1"), str(uuid4()), files, now))
    await tx.add(new_environment(place, str(uuid4()), EnvironmentContent(namespace), now))
