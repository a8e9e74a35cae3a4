"""A local cluster, what its feed tells, and its callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from server.adapters.local.cluster import LocalCluster
from server.adapters.local.processes.exec_wrapper import CHILD_OWNER, WRAPPER_OWNER
from server.adapters.local.proxy.port_allocator import PortAllocator
from server.adapters.local.timeouts import Timeouts
from server.domain.revisions.revision import MOST_REVISIONS
from server.domain.rollout.status import Failure, State
from server.domain.service.commands import Applied, Delete, Deploy
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from tests.adapters.local.serving import BRISK, model, opened
from tests.contracts.world import Follower, following
from tests.patience import PATIENCE_SECONDS

IRIS = ServiceKey("model-serving", "iris")


class World:
    """A cluster over a folder."""

    def __init__(
        self, folder: Path, cluster: LocalCluster, told: Follower, session: aiohttp.ClientSession
    ) -> None:
        self.folder = folder
        self.cluster = cluster
        self.told = told
        self.session = session

    def model(self, tag: str = "1", **orders: Any) -> InferenceServiceSpec:
        return model(self.folder, tag, **orders)

    async def deploy(
        self, spec: InferenceServiceSpec | None, key: ServiceKey = IRIS, **fields: Any
    ) -> Applied:
        return await self.cluster.apply(Deploy(key, spec, **fields))

    async def ready(
        self, spec: InferenceServiceSpec, key: ServiceKey = IRIS, **fields: Any
    ) -> InferenceService:
        """Deploy, and wait until that is READY."""
        applied = await self.deploy(spec, key, **fields)
        return await self.told.ready(key, applied.service.generation)

    async def until(
        self, *states: State, key: ServiceKey = IRIS, generation: int = 0
    ) -> InferenceService:
        """The service once it is told in one of these states."""
        return await self.when(
            f"{key} {states}",
            lambda s: s.status.state in states and s.generation >= generation,
            key,
        )

    async def when(
        self, what: str, holds: Callable[[InferenceService], object], key: ServiceKey = IRIS
    ) -> InferenceService:
        """The service once this is told of it."""
        await self.told.until(what, lambda: (s := self.told.latest(key)) and holds(s))
        service = self.told.latest(key)
        assert service
        return service

    async def gone(self, key: ServiceKey = IRIS) -> None:
        """Delete, and wait until nothing is left."""
        await self.cluster.delete(Delete(key))
        await self.told.until(f"{key} gone", lambda: self.told.latest(key) is None)

    async def ask(self, service: InferenceService, path: str = "/v2") -> dict[str, Any]:
        """What the service's address answers."""
        async with self.session.get(service.status.url + path) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def generation_of(self, service: InferenceService) -> int:
        """Which generation's server answers."""
        return int((await self.ask(service))["name"].split("/")[2])


@asynccontextmanager
async def world_of(
    folder: Path,
    timeouts: Timeouts = BRISK,
    ports: PortAllocator | None = None,
    python: Path | None = None,
    most_revisions: int = MOST_REVISIONS,
) -> AsyncIterator[World]:
    async with (
        opened(folder, timeouts, ports, python, most_revisions) as cluster,
        following(cluster) as told,
        aiohttp.ClientSession() as session,
    ):
        yield World(folder, cluster, told, session)


async def failure_of(world: World, spec: InferenceServiceSpec) -> Failure:
    """Why the rollout of this spec fails."""
    await world.deploy(spec)
    failed = await world.until(State.FAILED)
    assert failed.status.failure
    assert failed.status.failure.rollout_id == failed.rollout.id
    assert failed.status.failure.remedy
    assert not failed.status.serving
    return failed.status.failure


def children_of(state: Path) -> list[psutil.Process]:
    """Every process that carries the mark of a state directory, whoever its parent is by now."""
    owner = (state / "id").read_text()
    return [p for p in psutil.process_iter() if _marked(p, owner)]


def servers_of(world: World) -> list[psutil.Process]:
    """Every process that was started for this cluster."""
    return children_of(world.folder / "state")


def wrappers_of(state: Path) -> list[psutil.Process]:
    """Every process that a command of a state directory is run by."""
    owner = (state / "id").read_text()
    return [p for p in psutil.process_iter() if _marked(p, owner, WRAPPER_OWNER)]


def _marked(process: psutil.Process, owner: str, marker: str = CHILD_OWNER) -> bool:
    try:
        return process.environ().get(marker) == owner
    except psutil.Error:
        return False


async def eventually(
    what: str, holds: Callable[[], object], seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until it holds; fail after so long."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
