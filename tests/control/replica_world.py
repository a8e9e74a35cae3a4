"""Two replicas over one history of changes, each as late as a plan has it, and their readers."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from server.control.authorizer import Authorizer
from server.control.read import Reader
from server.control.watch import Watcher
from server.control.watch_cache import ServiceIdentity, WatchCache
from server.control.watch_stream import Watch, WatchEvent
from server.domain.errors import ViewBehind
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.preconditions import Stored
from tests.control.event_stream import EventStream
from tests.control.model_reader import Message, ModelReader
from tests.memory_cluster.cluster import MemoryCluster
from tests.memory_cluster.store import Store

AUTHORIZER = Authorizer("models")
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


class History:
    """The services as they really are; each state has a number, in its message."""

    def __init__(self) -> None:
        self.store = Store()
        self._numbers = 0

    def change(self, key: ServiceKey, what: str) -> None:
        """Do "put", "delete", "recreate", or put a label with this text."""
        if what in ("delete", "recreate"):
            self.delete(key)
        if what != "delete":
            self.put(key, "" if what in ("put", "recreate") else what)

    def put(self, key: ServiceKey, team: str = "") -> None:
        """Change a service, or create it; with a team, change that alone."""
        self._numbers += 1
        status = InferenceServiceStatus(State.PROGRESSING, str(self._numbers))
        current = self.store.service(key)
        if current is None:
            labels = {"team": team or "a"}
            uid = f"uid-{self._numbers}"
            made = InferenceService(
                key, uid, 1, None, status, "", CREATED, selectable_labels=labels
            )
            self.store.put(Stored(made))
        elif team:
            self.store.change(replace(current, status=status, selectable_labels={"team": team}))
        else:
            self.store.change(replace(current, status=status))

    def delete(self, key: ServiceKey) -> None:
        """Delete a service, if it is there."""
        if self.store.service(key):
            self.store.remove(key)

    def selected(self, watch: Watch) -> dict[ServiceKey, str]:
        """What a reader of this watch has to know in the end: the last state of each service."""
        services = filter(None, map(self.store.service, self.store))
        return {
            s.key: s.status.message
            for s in services
            if watch.target.name in ("", s.key.name) and watch.selector.matches(s.selectable_labels)
        }


def message_of(watch: Watch, event: WatchEvent) -> Message:
    """The message that a caller gets."""
    service = event.service
    if service is None:
        return Message(event.type, event.resume_token)
    if isinstance(service, ServiceIdentity):
        return Message(event.type, event.resume_token, service.key, service.uid)
    assert watch.selector.matches(service.selectable_labels), "it does not match"
    number = service.status.message
    return Message(event.type, event.resume_token, service.key, service.uid, int(number), number)


class Replica:
    """One server process; `restart` is another one in its place."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._start()

    def _start(self) -> None:
        self.cluster = MemoryCluster(self._store, ready_after=None)
        cache = WatchCache()
        reader = Reader(self.cluster, cache, AUTHORIZER)
        self.watcher = Watcher(self.cluster, cache, reader, AUTHORIZER)
        self._following = asyncio.ensure_future(self.cluster.follow(cache))

    async def stop(self) -> None:
        self._following.cancel()
        with suppress(asyncio.CancelledError):
            await self._following

    async def restart(self) -> None:
        await self.stop()
        self._start()


@dataclass
class Connection:
    """A reader's stream on one of the replicas, which it reads as far as it is allowed."""

    watch: Watch
    replica: Replica
    behind: int = 0

    def __post_init__(self) -> None:
        self.model = ModelReader(watches_one=bool(self.watch.target.name))
        self._allowed = asyncio.Semaphore(0)
        self._open()

    def _open(self) -> None:
        self.model.open()
        watch = self.watch._replace(resume_token=self.model.token)
        stream = EventStream(self.replica.watcher, watch)
        self._reading = asyncio.ensure_future(self._read(stream))

    async def _read(self, stream: EventStream) -> None:
        try:
            while True:
                await self._allowed.acquire()
                self.model.take(message_of(self.watch, await stream.next()))
        except ViewBehind:
            self.behind += 1
        finally:
            await stream.close()

    def allow(self, messages: int) -> None:
        """Let so many further messages be read."""
        for _ in range(messages):
            self._allowed.release()

    async def resume(self, replica: Replica) -> None:
        """Cut the stream, and resume on a replica."""
        await self.close()
        self.replica = replica
        self._allowed = asyncio.Semaphore(0)
        self._open()

    @property
    def known(self) -> dict[tuple[str, str], Hashable]:
        """The last state of each service that the reader knows."""
        return {key: message.state for key, message in self.model.known.items()}

    async def close(self) -> None:
        """Cut the stream. Raises what a rule says that was broken."""
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading
