"""The view: one InferenceService each, a journal of those that went, and who wants to hear.

Every read is answered from here. The feed fills it; Deploy and Delete put the cluster's own answer
in, so that a caller reads its own writes. Nothing here awaits: a reader always sees a whole state.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from server.change_queue import ChangeQueue
from server.domain.errors import ServerStopping, ServiceError, ViewNotReady
from server.domain.listeners import Listeners
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.domain.service.memory_size import size_in_memory
from server.ports import Changed, Cluster, Gone, Synced

ALL = "-"
JOURNAL_LENGTH = 10_000


class Identity(NamedTuple):
    """Which service it is or was, and its last rollout: all that is kept of one that is gone."""

    key: ServiceKey
    uid: str
    rollout: Rollout


class Departure(NamedTuple):
    """A service that is gone, and the view's version from then on."""

    version: int
    service: Identity


@dataclass(slots=True)
class _Entry:
    service: InferenceService
    version: int
    bytes: int


class View:
    """What this process knows of every service.

    `version` grows with every change; `epoch` tells one process's versions from another's.
    `refusal` says what the cluster refuses this server, if anything. `stages` has those who want to
    know when it is `synced` or `stopping`. `bytes` is what all services come to, each as
    `size_in_memory` counts it.
    """

    def __init__(self, refusal: Callable[[], ServiceError | None] = lambda: None) -> None:
        self._refusal = refusal
        self.epoch = secrets.token_hex(4)
        self.version = 0
        self.bytes = 0
        self.synced = False
        self.stopping = False
        self._entries: dict[ServiceKey, _Entry] = {}
        self._sorted: list[ServiceKey] = []
        self._journal: deque[Departure] = deque()
        self._departed: set[str] = set()
        self._forgotten_version = 0
        self._subscriptions: dict[ServiceKey, set[ChangeQueue[ServiceKey]]] = {}
        self.stages = Listeners()

    def put(self, service: InferenceService) -> None:
        """Take a newer state of a service; of a uid that is known to be gone, nothing is taken."""
        entry = self._entries.get(service.key)
        if service.uid in self._departed or (entry and _adds_nothing(service, entry.service)):
            return
        if entry and entry.service.uid != service.uid:
            self._depart(entry.service)
        elif entry is None:
            insort(self._sorted, service.key)
        self.version += 1
        size = _size(service, entry)
        self.bytes += size - self.bytes_of(service.key)
        self._entries[service.key] = _Entry(service, self.version, size)
        self._tell(service.key)

    def remove(self, key: ServiceKey, uid: str) -> None:
        """Forget a service that is gone; another uid under the same key stays."""
        entry = self._entries.get(key)
        if entry is None or entry.service.uid != uid:
            return
        self.bytes -= entry.bytes
        del self._entries[key]
        del self._sorted[bisect_left(self._sorted, key)]
        self._depart(entry.service)
        self._tell(key)

    def get(self, key: ServiceKey) -> InferenceService | None:
        """The service as it is known now."""
        entry = self._entries.get(key)
        return entry.service if entry else None

    def bytes_of(self, key: ServiceKey) -> int:
        """What the service comes to of `bytes`; 0: there is none."""
        entry = self._entries.get(key)
        return entry.bytes if entry else 0

    def services(
        self, target: ServiceKey, after: ServiceKey | None = None
    ) -> Iterator[InferenceService]:
        """Those that the target covers, by namespace and name, from `after` on."""
        keys = self._covered(target)
        start = bisect_right(keys, after) if after else 0
        return (self._entries[key].service for key in keys[start:])

    def count(self, target: ServiceKey) -> int:
        """How many the target covers."""
        return len(self._covered(target))

    def changed_since(self, version: int, target: ServiceKey) -> list[InferenceService]:
        """Those that the target covers and that are newer than a version, oldest change first."""
        entries = [self._entries[key] for key in self._covered(target)]
        newer = sorted((e for e in entries if e.version > version), key=lambda e: e.version)
        return [e.service for e in newer]

    def departed_since(self, version: int, target: ServiceKey) -> list[Identity] | None:
        """Those that went since a version, in order; None where the journal no longer knows."""
        if version < self._forgotten_version or version > self.version:
            return None
        return [
            d.service
            for d in self._journal
            if d.version > version and covers(target, d.service.key)
        ]

    def has_departed(self, uid: str) -> bool:
        """Whether this process saw the service of this uid go."""
        return uid in self._departed

    @contextmanager
    def subscribe(self, target: ServiceKey) -> Iterator[ChangeQueue[ServiceKey]]:
        """Queue every change that the target covers, for the length of a block."""
        changes = ChangeQueue[ServiceKey]()
        self._subscriptions.setdefault(target, set()).add(changes)
        try:
            yield changes
        finally:
            subscribed = self._subscriptions[target]
            subscribed.discard(changes)
            if not subscribed:
                del self._subscriptions[target]

    def sync(self) -> None:
        """From now on it has all that the cluster had; whoever waited for that looks again."""
        self.synced = True
        self._wake_all()
        self.stages.notify()

    def require_synced(self) -> None:
        """Raise, before the first listing has finished, what the cluster refuses this server, else
        ViewNotReady."""
        if not self.synced:
            not_ready = ViewNotReady("this server has not yet listed the cluster; try again soon")
            raise self._refusal() or not_ready

    def require_running(self) -> None:
        """Raise ServerStopping once the server goes down."""
        if self.stopping:
            raise ServerStopping("this server is going down; watch again with the same rollout_id")

    def stop(self) -> None:
        """Wake every subscriber, so that each can end its stream."""
        self.stopping = True
        self._wake_all()
        self.stages.notify()

    def _wake_all(self) -> None:
        for subscribed in self._subscriptions.values():
            for changes in subscribed:
                changes.wake()

    def _covered(self, target: ServiceKey) -> list[ServiceKey]:
        namespace, name = target
        if name:
            return [target] if target in self._entries else []
        if namespace == ALL:
            return self._sorted
        low = bisect_left(self._sorted, ServiceKey(namespace, ""))
        high = bisect_left(self._sorted, ServiceKey(namespace + "\0", ""))
        return self._sorted[low:high]

    def _depart(self, service: InferenceService) -> None:
        self.version += 1
        deleted = Identity(service.key, service.uid, service.rollout)
        self._journal.append(Departure(self.version, deleted))
        self._departed.add(service.uid)
        if len(self._journal) > JOURNAL_LENGTH:
            oldest = self._journal.popleft()
            self._departed.discard(oldest.service.uid)
            self._forgotten_version = oldest.version

    def _tell(self, key: ServiceKey) -> None:
        for target in (key, ServiceKey(key.namespace, ""), ServiceKey(ALL, "")):
            for changes in self._subscriptions.get(target, ()):
                changes.add(key)


def _size(service: InferenceService, entry: _Entry | None) -> int:
    """Its bytes; where only its status has changed, as mostly, they are not counted anew."""
    if entry and _counted(service) == _counted(entry.service):
        return entry.bytes
    return size_in_memory(*_counted(service))


def _counted(
    service: InferenceService,
) -> tuple[InferenceServiceSpec | None, Mapping[str, str], Mapping[str, str]]:
    return service.spec, service.labels, service.annotations


def _adds_nothing(service: InferenceService, held: InferenceService) -> bool:
    """Whether it is what is held, or from before: a write's answer may come after the news of a
    later write, or of a deletion, which is no rollout of its own."""
    if service.uid != held.uid:
        return service.create_time < held.create_time
    undeleted = held.delete_time is not None and service.delete_time is None
    return service.generation < held.generation or undeleted or service == held


def covers(target: ServiceKey, key: ServiceKey) -> bool:
    """Whether a target (a service, a namespace, or all) covers a service."""
    return target in (key, ServiceKey(key.namespace, ""), ServiceKey(ALL, ""))


async def follow(view: View, cluster: Cluster) -> None:
    """Keep the view at what the cluster tells, until cancelled."""
    async for event in cluster.feed():
        match event:
            case Changed(service):
                view.put(service)
            case Gone(key, uid):
                view.remove(key, uid)
            case Synced():
                view.sync()
