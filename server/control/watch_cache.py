"""The watch cache: every service as last reported, in the order of their last changes, tombstones
of deleted ones, and subscriptions.

All reads are served from here. The cluster alone fills it, in order, with the results of our writes
too (`server.ports.Cluster`). No method awaits, so a reader always sees a consistent state.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from server.control.wakeups import Subscription, Wakeups
from server.domain.errors import ServerStopping, ServiceError, ViewNotReady
from server.domain.listeners import Listeners
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.memory_size import size_in_memory

ALL = "-"
MOST_TOMBSTONES = 10_000
MOST_FORMER_LABELS = 10_000


class ServiceIdentity(NamedTuple):
    """A service's key, uid and last rollout: all that is kept of a deleted one."""

    key: ServiceKey
    uid: str
    rollout: Rollout


class Tombstone(NamedTuple):
    """A deleted service: the versions of the cache that its first state and its deletion made, and
    its last labels."""

    version: int
    service: ServiceIdentity
    born: int
    labels: Mapping[str, str]


class FormerLabels(NamedTuple):
    """Labels that a service had, and the version of the cache that ended them."""

    version: int
    uid: str
    labels: Mapping[str, str]


class Entry(NamedTuple):
    """A service, and the versions of the cache that its first and its present state made."""

    service: InferenceService
    version: int
    born: int
    bytes: int

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that selectors match."""
        return self.service.selectable_labels


class Changes(NamedTuple):
    """The changes of a target since a version: its services that changed and were deleted, each
    oldest first, and the labels that services of any target had before, oldest first by uid."""

    changed: Sequence[Entry]
    deleted: Sequence[Tombstone]
    former_labels: Mapping[str, Sequence[FormerLabels]]


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
        self._entries: dict[ServiceKey, Entry] = {}
        self._sorted: list[ServiceKey] = []
        # The services of a namespace, and of all, by their last change.
        self._by_change: dict[ServiceKey, OrderedDict[ServiceKey, None]] = {}
        self._tombstones: deque[Tombstone] = deque()
        self._deleted: set[str] = set()
        self._dropped_version = 0
        self._former_labels: deque[FormerLabels] = deque()
        self._dropped_labels_version = 0
        self._wakeups = Wakeups(lambda: self.version)
        self.lifecycle = Listeners()

    def put(self, service: InferenceService) -> None:
        """See `server.ports.ServiceSink`. A state that equals the last one changes nothing."""
        entry, before = self._entries.get(service.key), self.version
        if entry is None:
            insort(self._sorted, service.key)
        elif entry.service == service:
            return
        elif entry.service.uid != service.uid:
            self._bury(entry)
        elif entry.service.selectable_labels != service.selectable_labels:
            self._keep_labels(entry.service)
        self.version += 1
        size = _size(service, entry)
        self.bytes += size - (entry.bytes if entry else 0)
        same = entry is not None and entry.service.uid == service.uid
        born = entry.born if entry and same else self.version
        self._entries[service.key] = Entry(service, self.version, born, size)
        for target in _groups(service.key):
            order = self._by_change.setdefault(target, OrderedDict())
            order[service.key] = None
            order.move_to_end(service.key)
        self._notify(service.key, before)

    def remove(self, key: ServiceKey) -> None:
        """See `server.ports.ServiceSink`."""
        entry, before = self._entries.pop(key, None), self.version
        if entry is None:
            return
        self.bytes -= entry.bytes
        del self._sorted[bisect_left(self._sorted, key)]
        for target in _groups(key):
            del self._by_change[target][key]
            if not self._by_change[target]:
                del self._by_change[target]
        self._bury(entry)
        self._notify(key, before)

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
        covered = self._covered(target)
        if after:
            start = bisect_right(self._sorted, after, covered.start, covered.stop)
            covered = range(start, covered.stop)
        return (self._entries[self._sorted[place]].service for place in covered)

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

    def entries(self, target: ServiceKey) -> Iterator[Entry]:
        """Return the target's services by namespace and name, with their versions."""
        return (self._entries[self._sorted[place]] for place in self._covered(target))

    def changed_since(self, version: int, target: ServiceKey) -> list[Entry]:
        """Return the target's services that changed after a version, oldest change first."""
        if target.name:
            entry = self._entries.get(target)
            return [entry] if entry and entry.version > version else []
        entries = (self._entries[key] for key in reversed(self._by_change.get(target, ())))
        newer = list(takewhile(lambda entry: entry.version > version, entries))
        return newer[::-1]

    def deleted_since(self, version: int, target: ServiceKey) -> list[Tombstone] | None:
        """Return the target's services deleted after a version, in order; None if tombstones of
        that time were dropped."""
        if version < self._dropped_version or version > self.version:
            return None
        newer = takewhile(lambda each: each.version > version, reversed(self._tombstones))
        return [each for each in newer if covers(target, each.service.key)][::-1]

    def changes_since(
        self, version: int, target: ServiceKey, *, with_labels: bool
    ) -> Changes | None:
        """Return the target's changes after a version, with the labels that ended since; None if
        some of them were dropped."""
        deleted = self.deleted_since(version, target)
        if deleted is None or (with_labels and version < self._dropped_labels_version):
            return None
        former: dict[str, list[FormerLabels]] = {}
        if with_labels:
            newer = takewhile(lambda each: each.version > version, reversed(self._former_labels))
            for labels in reversed(list(newer)):
                former.setdefault(labels.uid, []).append(labels)
        return Changes(self.changed_since(version, target), deleted, former)

    def is_deleted(self, uid: str) -> bool:
        """Return whether this process saw the deletion of a uid."""
        return uid in self._deleted

    def subscribe(self, target: ServiceKey) -> Subscription:
        """Return a subscription to the target's changes, which has to be entered as a block."""
        return self._wakeups.subscribe(target)

    def may_have_changed(self, version: int, target: ServiceKey) -> bool:
        """Report whether a target that has a subscription changed after a version."""
        return self._wakeups.changed_since(version, target)

    def mark_synced(self) -> None:
        """See `server.ports.ServiceSink`. It wakes the waiters."""
        self.synced = True
        self._wakeups.wake_all()
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
        self._wakeups.wake_all()
        self.lifecycle.notify()

    def _covered(self, target: ServiceKey) -> range:
        """Return the places of the target's services in `_sorted`; a copy would take longer than a
        page of a long list."""
        namespace, name = target
        if namespace == ALL:
            return range(len(self._sorted))
        # The names of services have no NUL, which is before all other characters.
        after = ServiceKey(namespace, f"{name}\0") if name else ServiceKey(f"{namespace}\0", "")
        return range(bisect_left(self._sorted, target), bisect_left(self._sorted, after))

    def _bury(self, entry: Entry) -> None:
        self.version += 1
        service = entry.service
        deleted = ServiceIdentity(service.key, service.uid, service.rollout)
        tombstone = Tombstone(self.version, deleted, entry.born, service.selectable_labels)
        self._tombstones.append(tombstone)
        self._deleted.add(service.uid)
        if len(self._tombstones) > MOST_TOMBSTONES:
            oldest = self._tombstones.popleft()
            self._deleted.discard(oldest.service.uid)
            self._dropped_version = oldest.version

    def _keep_labels(self, service: InferenceService) -> None:
        ended = FormerLabels(self.version + 1, service.uid, service.selectable_labels)
        self._former_labels.append(ended)
        if len(self._former_labels) > MOST_FORMER_LABELS:
            self._dropped_labels_version = self._former_labels.popleft().version

    def _notify(self, key: ServiceKey, before: int) -> None:
        for target in (key, *_groups(key)):
            self._wakeups.notify(target, before)


def _groups(key: ServiceKey) -> tuple[ServiceKey, ServiceKey]:
    return ServiceKey(key.namespace, ""), ServiceKey(ALL, "")


def _size(service: InferenceService, entry: Entry | None) -> int:
    """Return a service's bytes, counted anew only if more than its status changed."""
    if entry and (
        (service.spec, service.labels, service.annotations)
        == (entry.service.spec, entry.service.labels, entry.service.annotations)
    ):
        return entry.bytes
    return size_in_memory(service.spec, service.labels, service.annotations)


def covers(target: ServiceKey, key: ServiceKey) -> bool:
    """Return whether a target (a service, a namespace, or all) covers a service."""
    return target in (key, *_groups(key))
