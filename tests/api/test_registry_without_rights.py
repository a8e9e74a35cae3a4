"""Deploys of registered models while no replica follows the cluster in the records."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.model_service_pb2 import WatchStatusRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from server.adapters.sql.factory import opened_registry
from tests.patience import PATIENCE_SECONDS
from tests.serving import serving, settings

from .registry_project import Project


@pytest.fixture
def channel(sqlite_url: str) -> Iterator[grpc.Channel]:
    """To a server that waits for a leader who was killed."""

    async def lead() -> None:
        async with opened_registry(sqlite_url) as registry:
            assert await registry.lead("one who was killed", timedelta(minutes=1))

    asyncio.run(lead())
    with serving(settings(registry=sqlite_url)) as served:
        served.wait_until_synced()
        with grpc.insecure_channel(served.address) as channel:
            yield channel


def test_what_was_ready_when_the_next_deploy_came_is_on_record_as_that(
    channel: grpc.Channel,
) -> None:
    stub, project = ModelServiceStub(channel), Project(RegistryServiceStub(channel), "risk")
    project.model()
    project.version("1")
    project.version("2")
    project.environment()
    first = stub.Deploy(project.deploy("1"))
    until_ready = WatchStatusRequest(
        namespace=first.service.namespace,
        name=first.service.name,
        until=WatchStatusRequest.UNTIL_READY,
        rollout_id=first.rollout_id,
    )
    list(stub.WatchStatus(until_ready, timeout=PATIENCE_SECONDS))
    stub.Deploy(project.deploy("2"))
    request = pb.GetModelDeploymentRequest(project="risk", id=first.service.deployment_id)
    assert project.stub.GetModelDeployment(request).deployment.HasField("ready_time")
