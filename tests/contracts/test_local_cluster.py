"""Model servers as processes of this machine pass the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.adapters.local.cluster import LocalCluster
from server.domain.service.inference_service import InferenceServiceSpec, ServiceKey
from tests.adapters.local.serving import model, opened
from tests.contracts.conformance import ClusterConformance
from tests.contracts.world import Ability, Follower, World, following


class LocalWorld:
    """A state directory of its own for each test."""

    abilities = frozenset(
        {Ability.PODS_OF_ANY_IMAGE, Ability.ONE_MODE, Ability.STOPPING, Ability.LATENESS}
    )
    namespace = "model-serving"
    missing_namespace = "absent"

    def __init__(self, cluster: LocalCluster, told: Follower, folder: Path) -> None:
        self.cluster = cluster
        self.told = told
        self._folder = folder
        self._held = folder / "held"
        self._held.mkdir()

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[tuple[LocalCluster, Follower]]:
        """One server alone can have a state directory: another caller, with a feed of its own."""
        async with following(self.cluster) as told:
            yield self.cluster, told

    def plain(self, tag: str) -> InferenceServiceSpec:
        return model(self._folder, tag, hold=str(self._held))

    def never_ready(self) -> InferenceServiceSpec:
        return model(self._folder, "never-ready", unready=True)

    def failing(self, tag: str) -> InferenceServiceSpec:
        return model(self._folder, f"failing-{tag}", exit=1)

    async def edit(self, key: ServiceKey, tag: str) -> None:
        raise NotImplementedError(Ability.OTHER_WRITERS)

    async def stop_as_others(self, key: ServiceKey, value: str | None) -> None:
        raise NotImplementedError(Ability.OTHER_WRITERS)

    async def make_unmanaged(self, name: str, image: str, labels: dict[str, str]) -> None:
        raise NotImplementedError(Ability.OTHER_WRITERS)

    @asynccontextmanager
    async def late_events(self) -> AsyncIterator[None]:
        """Nothing is between the cluster and its processes."""
        yield

    @asynccontextmanager
    async def late_answers(self) -> AsyncIterator[None]:
        """A write and its answer are one step."""
        yield

    async def keep(self, key: ServiceKey) -> None:
        """Its model server, once it is there, does not end."""
        service = await self.cluster.read(key)
        assert service
        await self.told.ready(key, service.generation)
        self._hold(key).touch()

    async def finish_delete(self, key: ServiceKey) -> None:
        self._hold(key).unlink()

    def _hold(self, key: ServiceKey) -> Path:
        return self._held / f"{key.namespace}.{key.name}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as cluster, following(cluster) as told:
        yield LocalWorld(cluster, told, tmp_path)


class TestLocalCluster(ClusterConformance):
    """The whole suite."""
