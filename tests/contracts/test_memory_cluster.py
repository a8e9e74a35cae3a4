"""The cluster in memory passes the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ServiceKey,
)
from tests.contracts.conformance import ClusterConformance
from tests.contracts.world import Ability, Follower, World, container, following
from tests.memory_cluster.cluster import MemoryCluster
from tests.memory_cluster.statuses import FAILING


class MemoryWorld:
    """A store of its own for each test."""

    abilities = frozenset(Ability) - {Ability.LATENESS}
    namespace = "model-serving"
    missing_namespace = "absent"

    def __init__(self, cluster: MemoryCluster, told: Follower) -> None:
        self.cluster = cluster
        self.told = told
        cluster.store.missing_namespaces.add(self.missing_namespace)

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[tuple[MemoryCluster, Follower]]:
        other = MemoryCluster(self.cluster.store)
        async with following(other) as told:
            yield other, told

    def plain(self, tag: str) -> InferenceServiceSpec:
        return container(tag)

    def never_ready(self) -> InferenceServiceSpec:
        self.cluster.ready_after = None
        return container("never-ready")

    def failing(self, tag: str) -> InferenceServiceSpec:
        return InferenceServiceSpec(ContainerPredictor(f"{FAILING}{tag}"))

    async def edit(self, key: ServiceKey, tag: str) -> None:
        self.cluster.edit(key, container(tag))

    async def stop_as_others(self, key: ServiceKey, value: str | None) -> None:
        self.cluster.stop_as_others(key, value)

    async def make_unmanaged(self, name: str, image: str, labels: dict[str, str]) -> None:
        spec = InferenceServiceSpec(ContainerPredictor(image))
        self.cluster.put_unmanaged(ServiceKey(self.namespace, name), spec, labels)

    @asynccontextmanager
    async def late_events(self) -> AsyncIterator[None]:
        self.cluster.hold_feed()
        yield
        self.cluster.release_feed()

    @asynccontextmanager
    async def late_answers(self) -> AsyncIterator[None]:
        """A write and its answer are one step."""
        yield

    async def keep(self, key: ServiceKey) -> None:
        """It stays until then anyway."""

    async def finish_delete(self, key: ServiceKey) -> None:
        self.cluster.finish_delete(key)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    cluster = MemoryCluster()
    async with following(cluster) as told:
        yield MemoryWorld(cluster, told)


class TestMemoryCluster(ClusterConformance):
    """The whole suite."""
