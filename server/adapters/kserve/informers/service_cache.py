"""Cache the InferenceServices from two sources: the watch, and the answers to our writes.

The answer to a write is often ahead of the watch, and now and then behind it. Only here it is
decided which of two objects is the older one; that one is dropped. They are compared by uid and
generation, which order the states of a service also on an API server whose resourceVersions are no
integers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from server.adapters.kserve.held_object import HeldObject
from server.adapters.kserve.objects import Object, generation_of, key_of, uid_of, version_of
from server.domain.service.inference_service import ServiceKey

MAX_TOMBSTONES = 10_000


class _Unseen(NamedTuple):
    """The number of a write, and since when (monotonic) its answer is cached."""

    write: int
    since: float


class ServiceCache:
    """Hold one InferenceService for each key. Every `take_` returns the keys that changed.

    `deleted` is called at the deletion of each cached object, `generation_seen` with the former
    object (None: there was none) and each one of another uid or generation.
    """

    def __init__(
        self,
        deleted: Callable[[], None] = lambda: None,
        generation_seen: Callable[[Object | None, Object], None] = lambda *_: None,
    ) -> None:
        self._deleted = deleted
        self._generation_seen = generation_seen
        self._objects: dict[ServiceKey, Object] = {}
        self._keys: dict[str, ServiceKey] = {}
        # The uids of deleted services, oldest first.
        self._tombstones: dict[str, None] = {}
        # Writes whose uid the watch has not sent yet.
        self._unseen: dict[ServiceKey, _Unseen] = {}
        self._writes = 0

    def get(self, key: ServiceKey) -> Object | None:
        """Return the cached object."""
        return self._objects.get(key)

    def key_of(self, uid: str) -> ServiceKey | None:
        """Return the key of the service with this uid."""
        return self._keys.get(uid)

    def keys(self) -> Iterator[ServiceKey]:
        """Return the keys of all cached services."""
        return iter(self._objects)

    def writes_so_far(self) -> int:
        """Return a token for `take_list`: a list that is requested later has these writes."""
        return self._writes

    def has_unseen_write(self, seconds: float) -> bool:
        """Return whether the watch has not sent a written object within so many seconds.

        The object may have been deleted before the last list, so only a new list can show it.
        """
        before = time.monotonic() - seconds
        return any(unseen.since <= before for unseen in self._unseen.values())

    def take_written(self, written: Object) -> set[ServiceKey]:
        """Take the answer to a write, unless the cached object is as new."""
        key, uid = key_of(written), uid_of(written)
        cached = self._objects.get(key)
        same = cached is not None and uid_of(cached) == uid
        newer = cached is not None and not same and _created(cached) > _created(written)
        if uid in self._tombstones:
            return set()
        if newer:
            self._add_tombstone(uid)
            return set()
        if cached is None or not same:
            self._writes += 1
            self._unseen[key] = _Unseen(self._writes, time.monotonic())
        elif generation_of(cached) >= generation_of(written):
            return set()
        return self._store(key, uid, written)

    def take_deleted(self, deleted: Object) -> set[ServiceKey]:
        """Take the end of an object, from the watch or from the answer to its deletion."""
        key, uid = key_of(deleted), uid_of(deleted)
        cached = self._objects.get(key)
        self._add_tombstone(uid)
        if cached and (uid_of(cached) == uid or _created(cached) < _created(deleted)):
            return self._drop(key)
        return set()

    def take_changed(self, changed: Object) -> set[ServiceKey]:
        """Take an event of the watch, unless the answer to a write is newer."""
        key = key_of(changed)
        cached = self._objects.get(key)
        # The watch is in order: an event of another uid is older than the write it has not sent.
        if cached and key in self._unseen and uid_of(cached) != uid_of(changed):
            return set()
        return self._take_seen(key, changed)

    def take_list(self, namespace: str, objects: Sequence[Object], began: int) -> set[ServiceKey]:
        """Take all objects of a namespace (empty: of the cluster).

        `began` is the token from before the list was requested.
        """
        newer = {key for key, unseen in self._unseen.items() if unseen.write > began}
        listed = {key_of(o): o for o in objects}
        changed: set[ServiceKey] = set()
        for key in [k for k in self._objects if namespace in ("", k.namespace)]:
            if key not in listed and key not in newer:
                changed |= self._drop(key)
        for key, found in listed.items():
            if key not in newer or uid_of(found) == uid_of(self._objects[key]):
                changed |= self._take_seen(key, found)
        return changed

    def _take_seen(self, key: ServiceKey, found: Object) -> set[ServiceKey]:
        uid = uid_of(found)
        if uid in self._tombstones:
            return set()
        self._unseen.pop(key, None)
        cached = self._objects.get(key)
        if cached and uid_of(cached) == uid:
            # A list has all objects again, most of them as they are cached.
            same = version_of(found) == version_of(cached) != ""
            if same or generation_of(found) < generation_of(cached):
                return set()
        return self._store(key, uid, found)

    def _store(self, key: ServiceKey, uid: str, found: Object) -> set[ServiceKey]:
        cached = self._objects.get(key)
        if cached and (former := uid_of(cached)) != uid:
            del self._keys[former]
            self._bury(former)
        self._objects[key] = found
        self._keys[uid] = key
        if cached is None or (uid_of(cached), generation_of(cached)) != (uid, generation_of(found)):
            self._generation_seen(cached, found)
        return {key}

    def _drop(self, key: ServiceKey) -> set[ServiceKey]:
        uid = uid_of(self._objects.pop(key))
        del self._keys[uid]
        self._unseen.pop(key, None)
        self._bury(uid)
        return {key}

    def _bury(self, uid: str) -> None:
        self._add_tombstone(uid)
        self._deleted()

    def _add_tombstone(self, uid: str) -> None:
        self._tombstones[uid] = None
        if len(self._tombstones) > MAX_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]


def _created(service: Object) -> str:
    if isinstance(service, HeldObject):
        return service.created
    return str(service["metadata"].get("creationTimestamp"))
