"""The watch cache: every service as last reported, tombstones of deleted ones, and subscriptions.

All reads are served from here. The cluster alone fills it, in order, with the results of our writes
too (`server.ports.Cluster`). No method awaits, so a reader always sees a consistent state.
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
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.memory_size import size_in_memory

ALL = "-"
MOST_TOMBSTONES = 10_000
# Of each service.
MOST_FORMER_LABELS = 4


class ServiceIdentity(NamedTuple):
    """A service's key, uid and last rollout: all that is kept of a deleted one."""

    key: ServiceKey
    uid: str
    rollout: Rollout


class Tombstone(NamedTuple):
    """A deleted service, and the version of the cache that its deletion made."""

    version: int
    service: ServiceIdentity


class FormerLabels(NamedTuple):
    """Labels that a service had, and the version of the cache that ended them."""

    version: int
    labels: Mapping[str, str]


@dataclass(slots=True)
class _Entry:
    service: InferenceService
    version: int
    bytes: int
    former_labels: tuple[FormerLabels, ...]


class WatchCache:
    """Every service as this process knows it; implements `server.ports.ServiceSink`.

    `version` grows with every change; `epoch` distinguishes the versions of two processes.
    `refusal` returns the error if the cluster refuses this server. `lifecycle` notifies when the
    cache is `synced` or `stopping`. `bytes` is the size of all services by `size_in_memory`.
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
        self._tombstones: deque[Tombstone] = deque()
        self._deleted: set[str] = set()
        self._dropped_version = 0
        self._subscriptions: dict[ServiceKey, set[ChangeQueue[ServiceKey]]] = {}
        self.lifecycle = Listeners()

    def put(self, service: InferenceService) -> None:
        """See `server.ports.ServiceSink`. A state that equals the last one changes nothing."""
        entry = self._entries.get(service.key)
        former: tuple[FormerLabels, ...] = ()
        if entry is None:
            insort(self._sorted, service.key)
        elif entry.service == service:
            return
        elif entry.service.uid != service.uid:
            self._bury(entry.service)
        else:
            former = entry.former_labels
            if (labels := entry.service.selectable_labels) != service.selectable_labels:
                ended = FormerLabels(self.version + 1, labels)
                former = (*former, ended)[-MOST_FORMER_LABELS:]
        self.version += 1
        size = _size(service, entry)
        self.bytes += size - (entry.bytes if entry else 0)
        self._entries[service.key] = _Entry(service, self.version, size, former)
        self._notify(service.key)

    def remove(self, key: ServiceKey) -> None:
        """See `server.ports.ServiceSink`."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.bytes -= entry.bytes
        del self._sorted[bisect_left(self._sorted, key)]
        self._bury(entry.service)
        self._notify(key)

    def get(self, key: ServiceKey) -> InferenceService | None:
        """Return the service as last known."""
        entry = self._entries.get(key)
        return entry.service if entry else None

    def bytes_of(self, key: ServiceKey) -> int:
        """Return the service's share of `bytes`; 0 where it is absent."""
        entry = self._entries.get(key)
        return entry.bytes if entry else 0

    def services(
        self, target: ServiceKey, after: ServiceKey | None = None
    ) -> Iterator[InferenceService]:
        """Return the target's services by namespace and name, beginning after a key."""
        keys = self._covered(target)
        start = bisect_right(keys, after) if after else 0
        return (self._entries[key].service for key in keys[start:])

    def count(self, target: ServiceKey) -> int:
        """Return the number of the target's services."""
        return len(self._covered(target))

    def namespaces(self) -> list[str]:
        """Return the namespaces that have services, in order."""
        found, start = list[str](), 0
        while start < len(self._sorted):
            found.append(self._sorted[start].namespace)
            start = bisect_left(self._sorted, ServiceKey(found[-1] + "\0", ""), start)
        return found

    def changed_since(self, version: int, target: ServiceKey) -> list[InferenceService]:
        """Return the target's services that changed after a version, oldest change first."""
        entries = [self._entries[key] for key in self._covered(target)]
        newer = sorted((e for e in entries if e.version > version), key=lambda e: e.version)
        return [e.service for e in newer]

    def labels_since(self, key: ServiceKey, version: int) -> list[Mapping[str, str]] | None:
        """Return the labels that a service had after a version, and has no longer; None if labels
        of that time were dropped."""
        former = self._entries[key].former_labels
        if len(former) == MOST_FORMER_LABELS and former[0].version > version:
            return None
        return [each.labels for each in former if each.version > version]

    def deleted_since(self, version: int, target: ServiceKey) -> list[ServiceIdentity] | None:
        """Return the target's services deleted after a version, in order; None if tombstones of
        that time were dropped."""
        if version < self._dropped_version or version > self.version:
            return None
        return [
            tombstone.service
            for tombstone in self._tombstones
            if tombstone.version > version and covers(target, tombstone.service.key)
        ]

    def is_deleted(self, uid: str) -> bool:
        """Return whether this process saw the deletion of a uid."""
        return uid in self._deleted

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

    def mark_synced(self) -> None:
        """See `server.ports.ServiceSink`. It wakes the waiters."""
        self.synced = True
        self._wake_all()
        self.lifecycle.notify()

    def require_synced(self) -> None:
        """Raise until the initial list is complete: the cluster's refusal, or else ViewNotReady."""
        if not self.synced:
            not_ready = ViewNotReady("this server has not yet listed the cluster: try again soon")
            raise self._refusal() or not_ready

    def require_running(self) -> None:
        """Raise ServerStopping once the server stops."""
        if self.stopping:
            raise ServerStopping("this server is stopping: watch again with the same rollout_id")

    def stop(self) -> None:
        """Wake every subscriber, so that each ends its stream."""
        self.stopping = True
        self._wake_all()
        self.lifecycle.notify()

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

    def _bury(self, service: InferenceService) -> None:
        self.version += 1
        deleted = ServiceIdentity(service.key, service.uid, service.rollout)
        self._tombstones.append(Tombstone(self.version, deleted))
        self._deleted.add(service.uid)
        if len(self._tombstones) > MOST_TOMBSTONES:
            oldest = self._tombstones.popleft()
            self._deleted.discard(oldest.service.uid)
            self._dropped_version = oldest.version

    def _notify(self, key: ServiceKey) -> None:
        for target in (key, ServiceKey(key.namespace, ""), ServiceKey(ALL, "")):
            for changes in self._subscriptions.get(target, ()):
                changes.add(key)


def _size(service: InferenceService, entry: _Entry | None) -> int:
    """Return a service's bytes, counted anew only if more than its status changed."""
    if entry and (
        (service.spec, service.labels, service.annotations)
        == (entry.service.spec, entry.service.labels, entry.service.annotations)
    ):
        return entry.bytes
    return size_in_memory(service.spec, service.labels, service.annotations)


def covers(target: ServiceKey, key: ServiceKey) -> bool:
    """Return whether a target (a service, a namespace, or all) covers a service."""
    return target in (key, ServiceKey(key.namespace, ""), ServiceKey(ALL, ""))
