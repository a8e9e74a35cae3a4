"""What the suite needs of a cluster beside its port."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from enum import StrEnum
from typing import Any, Protocol

import pytest

from server.domain.rollout.status import State
from server.domain.service.canonical_spec import canonical_deploy
from server.domain.service.commands import STOP_ANNOTATION, Deploy
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.domain.service.validation import check_deploy
from server.ports import Cluster
from tests.patience import PATIENCE_SECONDS
from tests.transcripts.recording import record_port

OF_KUBERNETES: dict[str, Any] = {
    "secret_env": {},
    "service_account": "",
    "deployment_mode": "",
    "node_selector": {},
    "tolerations": (),
}


class Ability(StrEnum):
    """What not every cluster can do; a test that needs it is skipped by its name."""

    PODS_OF_ANY_IMAGE = "pods that become ready, or never do, as their image says"
    CONTAINERS = "containers"
    KUBERNETES = "Secrets, service accounts, nodes and deployment modes"
    NAMESPACES = "namespaces that are made before they are used"
    OTHER_WRITERS = "writers beside this server"
    SEVERAL_PODS = "several pods of one service"
    ONE_MODE = "one deployment mode only"
    STOPPING = "services that an annotation stops"
    LATENESS = "rollouts that fail because they take too long"


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """A service was put that differs from the last one."""

    service: InferenceService


@dataclasses.dataclass(frozen=True, slots=True)
class Gone:
    """A service that was put was removed, or replaced by one with another uid."""

    key: ServiceKey
    uid: str


@dataclasses.dataclass(frozen=True, slots=True)
class Synced:
    """Every service was put."""


class Follower:
    """A sink that keeps all that it was told, in order."""

    def __init__(self) -> None:
        self.events: list[Changed | Gone | Synced] = []
        self.services: dict[ServiceKey, InferenceService] = {}
        self._told = asyncio.Event()

    def put(self, service: InferenceService) -> None:
        before = self.services.get(service.key)
        if before == service:
            return
        if before and before.uid != service.uid:
            self.remove(service.key)
        self.services[service.key] = service
        self._tell(Changed(service))

    def remove(self, key: ServiceKey) -> None:
        if before := self.services.pop(key, None):
            self._tell(Gone(key, before.uid))

    def mark_synced(self) -> None:
        self._tell(Synced())

    def _tell(self, event: Changed | Gone | Synced) -> None:
        self.events.append(event)
        self._told.set()

    def history(self, key: ServiceKey, since: int = 0) -> list[InferenceService | Gone]:
        """What was told of one service: how it was each time, and that it went."""
        told = self.events[since:]
        return [
            event.service if isinstance(event, Changed) else event
            for event in told
            if (isinstance(event, Changed) and event.service.key == key)
            or (isinstance(event, Gone) and event.key == key)
        ]

    def latest(self, key: ServiceKey) -> InferenceService | None:
        """The service by the last word on it; None if it never was, or is gone."""
        return self.services.get(key)

    async def until(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until it holds of what was told."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not holds():
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            last = self.events[-1] if self.events else "nothing"
            pytest.fail(f"{what}: not told within {PATIENCE_SECONDS:.0f} s, but {last}")

    async def synced(self) -> None:
        await self.until("Synced", lambda: any(isinstance(e, Synced) for e in self.events))

    async def ready(self, key: ServiceKey, generation: int) -> InferenceService:
        """The service once this generation, or a later one, is READY."""

        def found() -> InferenceService | None:
            service = self.latest(key)
            done = service and service.generation >= generation
            return service if done and service and service.status.state is State.READY else None

        await self.until(f"{key} READY at generation {generation}", found)
        service = found()
        assert service
        return service


class World(Protocol):
    """A cluster with a namespace for one test; `told` follows it."""

    cluster: Cluster
    told: Follower
    abilities: frozenset[Ability]
    namespace: str
    missing_namespace: str

    def replica(self) -> AbstractAsyncContextManager[tuple[Cluster, Follower]]:
        """A second process on the same cluster, and what its feed tells."""
        ...

    def plain(self, tag: str) -> InferenceServiceSpec:
        """A spec that is ready at once; another tag is another rollout."""
        ...

    def never_ready(self) -> InferenceServiceSpec:
        """A spec whose pods never become ready."""
        ...

    def failing(self, tag: str) -> InferenceServiceSpec:
        """A spec whose rollout fails; another tag is another rollout."""
        ...

    async def edit(self, key: ServiceKey, tag: str) -> None:
        """Change a service to what `plain` returns for the tag, as somebody else would."""
        ...

    async def make_unmanaged(self, name: str, image: str, labels: dict[str, str]) -> None:
        """Make a service with a container as somebody else would."""
        ...

    async def stop_as_others(self, key: ServiceKey, value: str | None) -> None:
        """Set the annotation that stops a service, as another field manager's apply would; None:
        withdraw it."""
        ...

    def late_events(self) -> AbstractAsyncContextManager[None]:
        """Hold back what the cluster reports by itself, within a block."""
        ...

    def late_answers(self) -> AbstractAsyncContextManager[None]:
        """Hold back the answer to each write until its event has come, within a block."""
        ...

    async def keep(self, key: ServiceKey) -> None:
        """Keep a service, once it is deleted, from being gone before `finish_delete`."""
        ...

    async def finish_delete(self, key: ServiceKey) -> None:
        """Let a deleted service that was kept go."""
        ...


@asynccontextmanager
async def following(cluster: Cluster) -> AsyncIterator[Follower]:
    """Follow a cluster's feed, from Synced on."""
    record_port(cluster)
    follower = Follower()
    feed = asyncio.create_task(cluster.follow(follower), name="follow the cluster")
    try:
        await follower.synced()
        yield follower
    finally:
        feed.cancel()
        with suppress(asyncio.CancelledError):
            await feed


def needs(world: World, *abilities: Ability) -> None:
    """Skip the test where the cluster cannot do this."""
    for ability in abilities:
        if ability not in world.abilities:
            pytest.skip(f"this cluster has no {ability}")


def plain(world: World, tag: str = "1", **fields: Any) -> InferenceServiceSpec:
    """What this cluster serves at once, with these fields; another tag is another rollout."""
    return dataclasses.replace(world.plain(tag), **fields)


def within(world: World, spec: InferenceServiceSpec) -> InferenceServiceSpec:
    """The spec, less what the cluster cannot do."""
    if Ability.CONTAINERS not in world.abilities and isinstance(spec.predictor, ContainerPredictor):
        spec = dataclasses.replace(spec, predictor=world.plain("1").predictor)
    if Ability.KUBERNETES not in world.abilities:
        spec = dataclasses.replace(spec, **OF_KUBERNETES)
    if Ability.SEVERAL_PODS not in world.abilities:
        one = dataclasses.replace(spec.scaling, min_replicas=None)
        spec = dataclasses.replace(spec, scaling=one)
    return spec


def annotated(world: World, annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations, less what the cluster cannot do."""
    stops = Ability.STOPPING in world.abilities
    return {k: v for k, v in annotations.items() if stops or k != STOP_ANNOTATION}


def in_standard_mode(world: World, spec: InferenceServiceSpec) -> InferenceServiceSpec:
    """The spec with a mode in which all that is asked can be, and that stays."""
    mode = "Standard" if Ability.KUBERNETES in world.abilities else ""
    return dataclasses.replace(spec, deployment_mode=mode)


def container(tag: str = "1", **fields: Any) -> InferenceServiceSpec:
    """A container that is ready at once; another tag is another rollout."""
    predictor = ContainerPredictor(f"registry.example/models/iris:{tag}")
    return dataclasses.replace(InferenceServiceSpec(predictor), **fields)


def deploy(
    world: World, spec: InferenceServiceSpec | None, name: str = "iris", **fields: Any
) -> Deploy:
    """A Deploy as the door lets it through."""
    wanted = dataclasses.replace(Deploy(ServiceKey(world.namespace, name), spec), **fields)
    check_deploy(wanted)
    return canonical_deploy(wanted)
