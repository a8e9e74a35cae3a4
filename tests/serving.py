"""The real application on loopback over a cluster in memory, in a thread with its own loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from server.app import Application, Task, opened_audit, opened_registry, opened_token_file
from server.settings import (
    Database,
    Identity,
    KServe,
    Kubernetes,
    Local,
    Log,
    Serving,
    Settings,
    Stop,
    Testing,
)
from tests.memory_cluster.cluster import MemoryCluster
from tests.patience import PATIENCE_SECONDS

T = TypeVar("T")


def settings(
    serving: dict[str, Any] | None = None,
    stop: dict[str, Any] | None = None,
    registry: str = "",
    identity: dict[str, Any] | None = None,
) -> Settings:
    """The defaults, on a free port, with a stop that need not wait for any load balancer.
    `registry` is its URL; empty: there is none."""
    return Settings(
        kserve=KServe(enabled=True),
        kubernetes=Kubernetes(),
        serving=Serving(**{"listen": "127.0.0.1:0"} | (serving or {})),
        identity=Identity(**(identity or {})),
        local=Local(),
        database=Database(url=registry),
        stop=Stop(**{"delay": "0", "grace": "10"} | (stop or {})),
        log=Log(),
        testing=Testing(),
    )


class Served:
    """An application that serves, from before it synced until `stop`.

    Whatever touches it from a test runs in its own loop: see `inside`.
    """

    def __init__(self, settings: Settings, *, synced: bool = True, **parts: Any) -> None:
        """`parts`: the application's further tasks and listeners, and a double of identities."""
        if settings.identity.auth is None:
            auth = "kubernetes" if parts.get("identities") else "none"
            identity = settings.identity.model_copy(update={"auth": auth})
            settings = replace(settings, identity=identity)
        self.memory = MemoryCluster()
        self.port = 0
        self.failure: BaseException | None = None
        self._settings = settings
        self._parts = parts
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="application", daemon=True)
        if not synced:
            self.memory.hold_feed()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(PATIENCE_SECONDS)
        if self.failure:
            raise self.failure

    def begin_stop(self) -> None:
        """As SIGTERM would."""
        with suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the application does not end"

    def inside(self, act: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Act on the cluster in the application's loop, and answer what came of it."""

        async def acted() -> T:
            return act(*arguments, **named)

        return self.awaited(acted())

    def awaited(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_SECONDS)

    def wait_until_synced(self) -> None:
        """Bounded; what is asked before is VIEW_NOT_READY."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while self.memory.age() is None:
            assert time.monotonic() < ends, "the view does not sync"
            time.sleep(0.01)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as e:
            self.failure = e
        finally:
            self._listening.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with (
            opened_registry(self._settings) as self.registry,
            opened_audit(self._settings) as audit,
        ):
            if file := await opened_token_file(self._settings):
                tasks = [*self._parts.get("tasks", ()), Task("tokens", file.file.follow)]
                self._parts |= {"identities": file, "tasks": tasks}
            self.application = Application(
                self.memory, self._settings, self.registry, audit=audit, **self._parts
            )
            self.port = await self.application.start()
            self._listening.set()
            await self.application.run(self._stop)


class InLoop:
    """An object that lives in an application's loop, for a test outside of it to call."""

    def __init__(self, served: Served, target: Any) -> None:
        self._served = served
        self.target = target

    def awaited(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._served.awaited(coroutine)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._served.inside, getattr(self.target, name))


@contextmanager
def serving(settings: Settings, *, synced: bool = True, **parts: Any) -> Iterator[Served]:
    """An application for the length of a block."""
    served = Served(settings, synced=synced, **parts)
    served.start()
    try:
        yield served
    finally:
        served.begin_stop()
        served.join()
    if served.failure:
        raise served.failure
