"""KServe on a real control plane passes the clusters' suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lab import Cluster, Lab
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ServiceKey,
)
from tests.contracts.conformance import ClusterConformance
from tests.contracts.world import Ability, Follower, container, following

from .direct import hold, let_go


class KServeWorld:
    """A namespace of its own for each test."""

    missing_namespace = "absent"

    def __init__(
        self, administered: Cluster, namespace: str, cluster: KServeCluster, told: Follower
    ) -> None:
        self._administered = administered
        self.namespace = namespace
        self.cluster = cluster
        self.told = told
        self._kept: set[ServiceKey] = set()
        lacks = set()
        if not isinstance(administered, Lab):
            lacks |= {Ability.PODS_OF_ANY_IMAGE}
        elif administered.knative:
            lacks |= {Ability.ONE_MODE}
        if isinstance(administered, Lab) and administered.kserve == "0.15":
            lacks |= {Ability.STOPPING}
        self.abilities = frozenset(Ability) - lacks

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[tuple[KServeCluster, Follower]]:
        async with followed(self._administered) as (cluster, told):
            yield cluster, told

    def plain(self, tag: str) -> InferenceServiceSpec:
        return container(tag)

    def never_ready(self) -> InferenceServiceSpec:
        return InferenceServiceSpec(ContainerPredictor("lab/stuck:1"))

    async def make_unmanaged(self, name: str, image: str, labels: dict[str, str]) -> None:
        containers = [{"name": "kserve-container", "image": image}]
        key = ServiceKey(self.namespace, name)
        await self._apply("kubectl", key, {"labels": labels}, predictor={"containers": containers})

    async def keep(self, key: ServiceKey) -> None:
        self._kept.add(key)
        await asyncio.to_thread(hold, self._administered, key)

    async def finish_delete(self, key: ServiceKey) -> None:
        self._kept.remove(key)
        await asyncio.to_thread(let_go, self._administered, key)

    async def close(self) -> None:
        """Let go what a failed test still keeps."""
        for key in tuple(self._kept):
            await self.finish_delete(key)

    async def _apply(
        self, manager: str, key: ServiceKey, metadata: dict[str, Any], **spec: Any
    ) -> None:
        manifest = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"namespace": key.namespace, "name": key.name, **metadata},
            **({"spec": spec} if spec else {}),
        }
        await asyncio.to_thread(self._administered.apply, manifest, field_manager=manager)


@asynccontextmanager
async def followed(administered: Cluster) -> AsyncIterator[tuple[KServeCluster, Follower]]:
    """KServe by the administrator's credentials, on a connection of its own."""
    api = await ApiServer.connect(str(administered.kubeconfig))
    try:
        cluster = KServeCluster(api)
        async with following(cluster) as told:
            yield cluster, told
    finally:
        await api.close()


@pytest.fixture
async def world(cluster: Cluster, namespace: str) -> AsyncIterator[KServeWorld]:
    async with followed(cluster) as (kserve, told):
        world = KServeWorld(cluster, namespace, kserve, told)
        yield world
        await world.close()


class TestKServeCluster(ClusterConformance):
    """The whole suite."""
