"""pytest-grpc's channel and stub over the real application, and hypothesis' profiles."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import hypothesis
import pytest
from grpc_health.v1 import health_pb2_grpc
from modelservice.v1 import model_service_pb2_grpc

from tests.serving import InLoop, Served, serving, settings

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=1000, derandomize=True, database=None
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")

pytest_plugins = ["tests.registry_store"]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Instead of pytest-grpc's own, which serves synchronous servicers only; with a registry."""
    folder = tmp_path_factory.mktemp("registry")
    with serving(settings(registry=f"sqlite:///{folder}/registry.db")) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture(scope="module")
def grpc_addr(grpc_server: Served) -> str:
    return grpc_server.address


@pytest.fixture(scope="module")
def grpc_stub_cls() -> Any:
    return model_service_pb2_grpc.ModelServiceStub


@pytest.fixture
def stub(grpc_stub: Any) -> model_service_pb2_grpc.ModelServiceStub:
    """ModelService, as its callers have it."""
    stub: model_service_pb2_grpc.ModelServiceStub = grpc_stub
    return stub


@pytest.fixture
def health(grpc_channel: grpc.Channel) -> Any:
    """grpc.health.v1 of the same server."""
    return health_pb2_grpc.HealthStub(grpc_channel)


@pytest.fixture
def memory(grpc_server: Served) -> Iterator[InLoop]:
    """The MemoryCluster behind the stub, called in its own loop; after the test as before."""
    cluster = InLoop(grpc_server, grpc_server.memory)
    yield cluster
    grpc_server.memory.ready_after = timedelta(0)
    cluster.back()
    cluster.release_feed()


@pytest.fixture
def name() -> str:
    """The name of a service that no other test has."""
    return f"svc-{next(_numbers)}"
