"""A cluster in memory and a registry on a real database, in which replicas follow it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from server.adapters.sql.factory import opened_registry
from server.control.deployment_recorder import DeploymentRecorder, RecorderTiming
from server.control.watch_cache import WatchCache
from server.domain.registry.deployment import DeploymentState, ModelDeployment, content_of
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import FailureReason, InferenceServiceStatus, State
from server.domain.service.commands import Applied, Delete, Deploy, Provenance
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ServiceKey,
)
from server.ports import Registry, RegistryWriting
from tests.memory_cluster.cluster import MemoryCluster
from tests.patience import PATIENCE_SECONDS

BRISK = RecorderTiming(term=0.6, sweep=0.1, pause=0.05, after_bug=0.7)
FAILING = InferenceServiceStatus(
    State.FAILED, failure=failure_of(FailureReason.IMAGE_PULL, "the image is not there")
)


def spec(image: str) -> InferenceServiceSpec:
    return InferenceServiceSpec(predictor=ContainerPredictor(image))


@dataclass
class World:
    """A cluster, its registry, and its deployments."""

    registry: Registry
    cluster: MemoryCluster
    database: Path

    @asynccontextmanager
    async def replica(
        self,
        timing: RecorderTiming = BRISK,
        registry: Any = None,
        cluster: MemoryCluster | None = None,
    ) -> AsyncIterator[WatchCache]:
        """A replica with a cache of its own, until its orderly end."""
        cluster = cluster or MemoryCluster(self.cluster.store)
        cache = WatchCache()
        recorder = DeploymentRecorder(registry or self.registry, cluster, cache, timing)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(cluster.follow(cache)),
                tasks.create_task(recorder.run()),
            ]
            yield cache
            for task in running:
                task.cancel()

    async def record(self, name: str, image: str = "fraud:1", **fields: Any) -> ModelDeployment:
        """What a Deploy from the registry stores before it touches the cluster."""

        async def work(tx: RegistryWriting) -> ModelDeployment:
            now = await tx.now()
            ids = {f"{each}_id": str(uuid4()) for each in ("model", "version", "environment")}
            names = {"project": "risk", "model": "fraud", "version": "1", "environment": "staging"}
            made = ModelDeployment(
                **{"id": str(uuid4()), "content": content_of(spec(image))} | ids | names,
                **{"create_time": now, "update_time": now} | fields,
                service=ServiceKey("staging", name),
            )
            await tx.add(made)
            return made

        return await self.registry.write(work)

    async def apply(self, record: ModelDeployment, image: str = "fraud:1") -> Applied:
        ids = (record.model_id, record.version_id, record.environment_id, "service")
        provenance = Provenance(*ids, deployment_id=record.id)
        return await self.cluster.apply(Deploy(record.service, spec(image), provenance=provenance))

    async def deploy(self, name: str, image: str = "fraud:1") -> ModelDeployment:
        record = await self.record(name, image)
        await self.apply(record, image)
        return record

    async def delete(self, record: ModelDeployment) -> None:
        await self.cluster.delete(Delete(record.service))
        self.cluster.finish_delete(record.service)

    async def stored(self, record: ModelDeployment) -> ModelDeployment:
        found = await self.registry.read(lambda tx: tx.deployment(record.id))
        assert found
        return found

    async def until(
        self, record: ModelDeployment, state: DeploymentState, *, ended: bool = False
    ) -> ModelDeployment:
        return await self.eventually(
            record, lambda found: found.state is state and bool(found.end_time) is ended
        )

    async def eventually(
        self, record: ModelDeployment, true: Callable[[ModelDeployment], bool]
    ) -> ModelDeployment:
        ends = time.monotonic() + PATIENCE_SECONDS
        while not true(found := await self.stored(record)):
            assert time.monotonic() < ends, found
            await asyncio.sleep(0.02)
        return found

    async def stays(self, record: ModelDeployment) -> None:
        """Several sweeps change nothing."""
        before = await self.stored(record)
        await asyncio.sleep(5 * BRISK.sweep)
        assert await self.stored(record) == before

    async def alter(self, statement: str) -> None:
        """Change the database beside the registry, which may have a transaction to finish."""

        def altered() -> None:
            with closing(sqlite3.connect(self.database)) as database, database:
                database.execute(statement)

        await asyncio.to_thread(altered)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another program has the database to itself."""
        other = sqlite3.connect(self.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    database = tmp_path / "registry.db"
    async with opened_registry(f"sqlite:///{database}") as registry:
        yield World(registry, MemoryCluster(), database)
