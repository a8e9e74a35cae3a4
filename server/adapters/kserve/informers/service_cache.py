"""The InferenceServices as last known, from two sources: the watch, and the answers to our writes.

A write's answer is often ahead of the watch, so what the watch then still says of the time before
it is dropped. Objects are compared by uid and generation, since resourceVersions have no order
that one may rely on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from server.adapters.kserve.objects import Object, generation_of, uid_of
from server.domain.service.inference_service import ServiceKey

REMEMBERED_GONE = 10_000


class _Unseen(NamedTuple):
    """The number of a write, and since when (monotonic) its answer is held."""

    write: int
    since: float


class HeldServices:
    """One InferenceService for each key; every `take_` answers which keys changed."""

    def __init__(self) -> None:
        self._objects: dict[ServiceKey, Object] = {}
        self._keys: dict[str, ServiceKey] = {}
        self._gone: dict[str, None] = {}
        self._departures: dict[ServiceKey, list[str]] = {}
        # Those that the watch has not shown under their uid yet.
        self._unseen: dict[ServiceKey, _Unseen] = {}
        self._writes = 0

    def get(self, key: ServiceKey) -> Object | None:
        """The object as last known."""
        return self._objects.get(key)

    def key_of(self, uid: str) -> ServiceKey | None:
        """The key of the service that has this uid."""
        return self._keys.get(uid)

    def keys(self) -> Iterator[ServiceKey]:
        """Every key that holds a service."""
        return iter(self._objects)

    def pop_departures(self, key: ServiceKey) -> list[str]:
        """The uids that went from under a key since this was last asked."""
        return self._departures.pop(key, [])

    def writes_so_far(self) -> int:
        """A token for `take_list`: a list asked for from now on knows these writes."""
        return self._writes

    def in_doubt(self, seconds: float) -> bool:
        """Whether a write's answer has waited so long for the watch to show its object.

        Then that was perhaps gone before the last list, and only a new list can tell.
        """
        before = time.monotonic() - seconds
        return any(unseen.since <= before for unseen in self._unseen.values())

    def take_written(self, written: Object) -> set[ServiceKey]:
        """Take a write's answer, unless as much or more is known already.

        Its key counts as changed in any case: whoever wrote shows the answer to its caller, and
        what is known beyond it must be told after that.
        """
        key, uid = key_of(written), uid_of(written)
        held = self._objects.get(key)
        if uid in self._gone or (held and uid_of(held) != uid and _made(held) > _made(written)):
            return self._depart(key, uid)
        if held is None or uid_of(held) != uid:
            self._writes += 1
            self._unseen[key] = _Unseen(self._writes, time.monotonic())
        elif generation_of(held) >= generation_of(written):
            return {key}
        return self._hold(written)

    def take_event(self, changed: Object, *, deleted: bool) -> set[ServiceKey]:
        """Take what the watch says, unless a write's answer is known to be newer."""
        key, uid = key_of(changed), uid_of(changed)
        held = self._objects.get(key)
        if deleted:
            self._remember_gone(uid)
            return self._drop(key) if held and uid_of(held) == uid else set()
        # The watch is in order: another uid before ours came by is from before our write.
        if held and uid_of(held) != uid and key in self._unseen:
            return set()
        return self._take_seen(changed)

    def take_list(self, namespace: str, objects: Sequence[Object], began: int) -> set[ServiceKey]:
        """Take all that a namespace (empty: the cluster) holds; `began` is from before the list."""
        newer = {key for key, unseen in self._unseen.items() if unseen.write > began}
        listed = {key_of(o): o for o in objects}
        changed: set[ServiceKey] = set()
        for key in [k for k in self._objects if namespace in ("", k.namespace)]:
            if key not in listed and key not in newer:
                changed |= self._drop(key)
        for key, found in listed.items():
            if key not in newer or uid_of(found) == uid_of(self._objects[key]):
                changed |= self._take_seen(found)
        return changed

    def _take_seen(self, found: Object) -> set[ServiceKey]:
        key, uid = key_of(found), uid_of(found)
        if uid in self._gone:
            return set()
        self._unseen.pop(key, None)
        held = self._objects.get(key)
        if held and uid_of(held) == uid and generation_of(found) < generation_of(held):
            return set()
        return self._hold(found)

    def _hold(self, found: Object) -> set[ServiceKey]:
        key, uid = key_of(found), uid_of(found)
        held = self._objects.get(key)
        if held and uid_of(held) != uid:
            del self._keys[uid_of(held)]
            self._depart(key, uid_of(held))
        self._objects[key] = found
        self._keys[uid] = key
        return {key}

    def _drop(self, key: ServiceKey) -> set[ServiceKey]:
        uid = uid_of(self._objects.pop(key))
        del self._keys[uid]
        self._unseen.pop(key, None)
        return self._depart(key, uid)

    def _depart(self, key: ServiceKey, uid: str) -> set[ServiceKey]:
        self._departures.setdefault(key, []).append(uid)
        self._remember_gone(uid)
        return {key}

    def _remember_gone(self, uid: str) -> None:
        self._gone[uid] = None
        if len(self._gone) > REMEMBERED_GONE:
            del self._gone[next(iter(self._gone))]


def key_of(found: Object) -> ServiceKey:
    """The key that an InferenceService goes by."""
    return ServiceKey(found["metadata"]["namespace"], found["metadata"]["name"])


def _made(found: Object) -> str:
    return str(found["metadata"].get("creationTimestamp"))
