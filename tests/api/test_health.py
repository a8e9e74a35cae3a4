"""grpc.health.v1 and reflection."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from tests.serving import serving, settings

from .asking import eventually

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICES = ("", "modelservice.v1.ModelService", "cluster", "registry", "live")


def status(health, service: str) -> int:
    return health.Check(HealthCheckRequest(service=service), timeout=5).status


def test_every_service_serves_once_synced(health) -> None:
    for service in SERVICES:
        eventually(
            f"{service!r} serves", lambda service=service: status(health, service) == SERVING
        )


def test_until_synced_only_live_serves() -> None:
    unsynced = serving(settings(), synced=False)
    with unsynced as served, grpc.insecure_channel(served.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert status(health, "live") == SERVING
        for service in ("", "modelservice.v1.ModelService"):
            assert status(health, service) == NOT_SERVING
        served.inside(served.memory.release_feed)
        eventually("it serves", lambda: status(health, "") == SERVING)


def test_a_cluster_that_is_away_shows_as_cluster_only(health, memory) -> None:
    memory.away()
    eventually("cluster is away", lambda: status(health, "cluster") == NOT_SERVING)
    for service in ("", "modelservice.v1.ModelService", "live"):
        assert status(health, service) == SERVING
    memory.back()
    eventually("cluster is back", lambda: status(health, "cluster") == SERVING)


def test_a_watcher_is_told_of_changes(health, memory) -> None:
    eventually("cluster serves", lambda: status(health, "cluster") == SERVING)
    watch = health.Watch(HealthCheckRequest(service="cluster"), timeout=10)
    assert next(watch).status == SERVING
    memory.away()
    assert next(watch).status == NOT_SERVING
    memory.back()
    assert next(watch).status == SERVING
    watch.cancel()


def test_a_service_that_is_none_is_not_found(health) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        status(health, "nothing")
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(HealthCheckRequest(service="nothing"), timeout=10)
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.parametrize(
    "symbol",
    [
        "modelservice.v1.ModelService",
        "modelservice.v1.Failure",
        "modelservice.v1.RegistryService",
        "modelservice.v1.ModelDeployment",
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
        "google.rpc.BadRequest",
        "grpc.health.v1.Health",
    ],
)
def test_reflection_resolves_the_contract_and_the_details_of_errors(grpc_channel, symbol) -> None:
    (answer,) = _reflected(grpc_channel, ServerReflectionRequest(file_containing_symbol=symbol))
    files = [
        FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert symbol.rpartition(".")[0] in {file.package for file in files}


def test_reflection_lists_the_services(grpc_channel) -> None:
    (answer,) = _reflected(grpc_channel, ServerReflectionRequest(list_services=""))
    names = {service.name for service in answer.list_services_response.service}
    assert {
        "modelservice.v1.ModelService",
        "modelservice.v1.RegistryService",
        "grpc.health.v1.Health",
    } <= names


def _reflected(channel: grpc.Channel, *requests: ServerReflectionRequest) -> list:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    return list(stub.ServerReflectionInfo(iter(requests), timeout=5))
