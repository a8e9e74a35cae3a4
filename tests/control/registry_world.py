"""Deploys from a real registry onto a cluster in memory, in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

from server.control.authorizer import Authorizer
from server.control.call import Call
from server.control.deploy import Deployer
from server.control.registry_deploy import RegistryDeployer
from server.control.service_memory import ServiceMemory
from server.control.watch_cache import WatchCache
from server.domain.registry.deployment import DeploymentFilter, ModelDeployment
from server.domain.service.commands import Applied, Deploy
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    RegisteredModelPredictor,
    ServiceKey,
)
from server.ports import Registry, RegistryReading, RegistryWriting
from tests.control.registry_control import Registering
from tests.memory_cluster.cluster import MemoryCluster

Result = TypeVar("Result")

_places = itertools.count(1)


@dataclass
class RegistryWorld:
    """A server's deploying."""

    registering: Registering
    namespace: str = field(default_factory=lambda: f"place-{next(_places)}")
    memory: MemoryCluster = field(default_factory=MemoryCluster)
    registry: Registry | None = None
    authorizer: Authorizer = field(default_factory=lambda: Authorizer("elsewhere"))

    call: Call = field(default_factory=Call)

    def __post_init__(self) -> None:
        self.cache = WatchCache()
        self.room = ServiceMemory(self.cache, 2**30)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[RegistryWorld]:
        """Fill the cache from the cluster, for the length of a block."""
        following = asyncio.create_task(self.memory.follow(self.cache))
        try:
            while not self.cache.synced:
                await asyncio.sleep(0)
            yield self
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def prepare(self, *versions: str, **defaults: Any) -> None:
        """A model `fraud` with READY versions, and the environment `staging`."""
        await self.registering.new_model()
        for version in versions:
            await self.registering.new_version(version, storage_uri=f"s3://models/fraud/{version}")
        await self.registering.new_environment(namespace=self.namespace, **defaults)

    def deploy_of(self, version: str = "", name: str = "", **asked: Any) -> Deploy:
        """A Deploy of `fraud` to `staging`; `options` of `asked` are of its spec."""
        options = asked.pop("options", {})
        names = {"model": "fraud", "environment": "staging"} | asked.pop("names", {})
        predictor = RegisteredModelPredictor(self.registering.project, version=version, **names)
        spec = InferenceServiceSpec(predictor, **options)
        key = ServiceKey(asked.pop("namespace", ""), name)
        return replace(Deploy(key, spec), **asked)

    async def deploy(self, version: str = "", name: str = "", **asked: Any) -> Applied:
        return await self.carry_out(self.deploy_of(version, name, **asked))

    async def carry_out(self, deploy: Deploy) -> Applied:
        registry = self.registry or self.registering.registry
        from_registry = RegistryDeployer(
            registry, self.memory, self.cache, self.authorizer, self.room
        )
        deploying = Deployer(self.memory, self.authorizer, self.room, from_registry)
        return await deploying.deploy(self.call, deploy)

    async def plain(self, spec: InferenceServiceSpec | None, name: str, **asked: Any) -> Applied:
        """A Deploy that names nothing of the registry."""
        return await self.carry_out(
            replace(Deploy(ServiceKey(self.namespace, name), spec), **asked)
        )

    async def records(self) -> list[ModelDeployment]:
        """All of the project, newest first."""
        wanted = DeploymentFilter(self.registering.project)
        return list((await self.registering.deployments.list(Call(), wanted, 100, "")).items)

    def service(self, name: str = "fraud-staging") -> InferenceService | None:
        return self.memory.store.service(ServiceKey(self.namespace, name))


@dataclass
class FailingRegistry:
    """A registry whose writes, after the first `good` ones, come to what `fault` does."""

    registry: Registry
    good: int
    fault: Callable[[], Awaitable[None]]

    async def read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        return await self.registry.read(work)

    async def write(self, work: Callable[[RegistryWriting], Awaitable[Result]]) -> Result:
        self.good -= 1
        if self.good < 0:
            await self.fault()
        return await self.registry.write(work)

    async def lead(self, holder: str, term: timedelta) -> bool:
        return await self.registry.lead(holder, term)

    async def resign(self, holder: str) -> None:
        await self.registry.resign(holder)

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        self.registry.on_reachable_change(changed)

    def reachable(self) -> bool:
        return self.registry.reachable()
