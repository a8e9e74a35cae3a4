"""The registry of the server behind the stub, and the files of a server with TLS."""

from __future__ import annotations

import itertools
from pathlib import Path

import grpc
import pytest
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub
from modelservice.v1.rollout_service_pb2_grpc import RolloutServiceStub

from tests.api_recorders import Authority

from .registry_project import Project
from .tls_files import TlsFiles

_numbers = itertools.count(1)


@pytest.fixture
def rollouts(grpc_channel: grpc.Channel) -> RolloutServiceStub:
    """RolloutService, as its callers have it."""
    return RolloutServiceStub(grpc_channel)


@pytest.fixture
def registry_stub(grpc_channel: grpc.Channel) -> RegistryServiceStub:
    """RegistryService, as its callers have it."""
    return RegistryServiceStub(grpc_channel)


@pytest.fixture
def project(registry_stub: RegistryServiceStub) -> Project:
    """A project that no other test has."""
    return Project(registry_stub, f"team-{next(_numbers)}")


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The CA of the servers' certificates."""
    return Authority("a CA")


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFiles:
    """The files of a server with TLS."""
    return TlsFiles(tmp_path / "tls", authority)
