"""The registry of the server behind the stub."""

from __future__ import annotations

import itertools

import grpc
import pytest
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from .registry_project import Project

_numbers = itertools.count(1)


@pytest.fixture
def registry_stub(grpc_channel: grpc.Channel) -> RegistryServiceStub:
    """RegistryService, as its callers have it."""
    return RegistryServiceStub(grpc_channel)


@pytest.fixture
def project(registry_stub: RegistryServiceStub) -> Project:
    """A project that no other test has."""
    return Project(registry_stub, f"team-{next(_numbers)}")
