"""KServe on a real control plane passes the clusters' suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lab import Cluster, Lab
from server.adapters.kserve.client import Answer, ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.adapters.kserve.objects import key_of, rollout_of
from server.domain.service.commands import STOP_ANNOTATION
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
        self,
        administered: Cluster,
        namespace: str,
        cluster: KServeCluster,
        told: Follower,
        link: ApiServerLink,
    ) -> None:
        self._administered = administered
        self.namespace = namespace
        self.cluster = cluster
        self.told = told
        self._link = link
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

    def failing(self, tag: str) -> InferenceServiceSpec:
        return InferenceServiceSpec(ContainerPredictor(f"lab/missing:{tag}"))

    async def edit(self, key: ServiceKey, tag: str) -> None:
        predictor = container(tag).serving
        assert isinstance(predictor, ContainerPredictor)
        containers = [{"name": "kserve-container", "image": predictor.image}]
        await self._apply("kubectl-edit", key, {}, predictor={"containers": containers})

    async def stop_as_others(self, key: ServiceKey, value: str | None) -> None:
        annotations = {} if value is None else {STOP_ANNOTATION: value}
        await self._apply("gitops", key, {"annotations": annotations})

    async def make_unmanaged(self, name: str, image: str, labels: dict[str, str]) -> None:
        containers = [{"name": "kserve-container", "image": image}]
        key = ServiceKey(self.namespace, name)
        await self._apply("kubectl", key, {"labels": labels}, predictor={"containers": containers})

    @asynccontextmanager
    async def late_events(self) -> AsyncIterator[None]:
        self._link.events.clear()
        try:
            yield
        finally:
            self._link.events.set()

    @asynccontextmanager
    async def late_answers(self) -> AsyncIterator[None]:
        self._link.before_answer = self._event_of
        try:
            yield
        finally:
            self._link.before_answer = None

    async def _event_of(self, written: Answer) -> None:
        """Wait for the event of a write."""
        rollout, ends = rollout_of(written.body), "deletionTimestamp" in written.body["metadata"]

        def has_come() -> bool:
            shown = self.told.latest(key_of(written.body))
            return bool(shown and shown.rollout == rollout and (shown.delete_time or not ends))

        await self.told.until("the event of a write", has_come)

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


class ApiServerLink:
    """The connection of one cluster, whose watches and answers to writes may be held back."""

    def __init__(self, api: ApiServer) -> None:
        self.events = asyncio.Event()
        self.events.set()
        self.before_answer: Callable[[Answer], Awaitable[None]] | None = None
        self._send, self._open_stream = api.send, api.open_stream
        setattr(api, "send", self.send)  # noqa: B010
        setattr(api, "open_stream", self.open_stream)  # noqa: B010

    async def send(self, method: str, path: str, **request: Any) -> Answer:
        answer = await self._send(method, path, **request)
        if self.before_answer and method in ("PATCH", "DELETE") and answer.ok:
            await self.before_answer(answer)
        return answer

    @asynccontextmanager
    async def open_stream(self, path: str, query: Any, **request: Any) -> AsyncIterator[Any]:
        async with self._open_stream(path, query, **request) as response:
            yield _HeldResponse(response, self.events)


class _HeldResponse:
    def __init__(self, response: Any, go: asyncio.Event) -> None:
        self.status, self.headers, self.content = response.status, response.headers, self
        self._response, self._go = response, go

    async def iter_any(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.content.iter_any():
            await self._go.wait()
            yield chunk


@asynccontextmanager
async def followed(administered: Cluster) -> AsyncIterator[tuple[KServeCluster, Follower]]:
    """KServe by the administrator's credentials, on a connection of its own."""
    async with _linked(administered) as (cluster, told, _):
        yield cluster, told


@asynccontextmanager
async def _linked(
    administered: Cluster,
) -> AsyncIterator[tuple[KServeCluster, Follower, ApiServerLink]]:
    api = await ApiServer.connect(str(administered.kubeconfig))
    link = ApiServerLink(api)
    try:
        cluster = KServeCluster(api)
        async with following(cluster) as told:
            yield cluster, told, link
    finally:
        await api.close()


@pytest.fixture
async def world(cluster: Cluster, namespace: str) -> AsyncIterator[KServeWorld]:
    async with _linked(cluster) as (kserve, told, link):
        world = KServeWorld(cluster, namespace, kserve, told, link)
        yield world
        await world.close()


class TestKServeCluster(ClusterConformance):
    """The whole suite."""
