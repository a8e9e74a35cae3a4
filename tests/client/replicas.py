"""Two replicas of the real application over one cluster in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

from server.app import Application, opened_registry
from tests.memory_cluster.cluster import MemoryCluster
from tests.memory_cluster.store import Store
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings

T = TypeVar("T")


class Replicas:
    """Both run in one loop, in a thread. Rollouts become ready as the tests say."""

    def __init__(self) -> None:
        store = Store()
        self.clusters = [MemoryCluster(store, ready_after=None) for _ in range(2)]
        self.addresses: list[str] = []
        self._stops = [asyncio.Event() for _ in range(2)]
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replicas", daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_SECONDS)

    def inside(self, act: Callable[..., T], *arguments: Any) -> T:
        async def acted() -> T:
            return act(*arguments)

        return asyncio.run_coroutine_threadsafe(acted(), self._loop).result(PATIENCE_SECONDS)

    def stop(self, number: int) -> None:
        """End one of them as SIGTERM does."""
        self._loop.call_soon_threadsafe(self._stops[number].set)

    def join(self) -> None:
        for number in range(2):
            self.stop(number)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for cluster, stop in zip(self.clusters, self._stops, strict=True):
                registry = await stack.enter_async_context(opened_registry(settings()))
                application = Application(cluster, settings(), registry)
                port = await application.start()
                self.addresses.append(f"127.0.0.1:{port}")
                group.create_task(application.run(stop))
            while any(cluster.age() is None for cluster in self.clusters):
                await asyncio.sleep(0.01)
            self._started.set()


@contextmanager
def replicas() -> Iterator[Replicas]:
    """Two replicas for the length of a block."""
    both = Replicas()
    try:
        yield both
    finally:
        both.join()
