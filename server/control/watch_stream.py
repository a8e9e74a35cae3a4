"""The stream of a watch: the events that its reader is sent next.

A stream is a position in the watch cache. What its reader has seen there follows from the versions
and labels in the cache, so that a stream costs the same however many services it covers, and
however slow its reader is. A stream that is resumed from a token goes on by the same code.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache, partial
from itertools import chain
from typing import NamedTuple

from server.control.authorizer import Coverage
from server.control.read import MATCHED_AT_ONCE
from server.control.resume_token import (
    BEGIN_ANEW,
    MOST_SPANS,
    NOTHING_SENT,
    LastSent,
    ResumeToken,
    Seen,
    SharedPosition,
    sent_deletion,
    sent_state,
)
from server.control.wakeups import Subscription
from server.control.watch_cache import (
    Entry,
    FormerLabels,
    ServiceIdentity,
    Tombstone,
    WatchCache,
)
from server.deadline import Deadline
from server.domain.kubernetes.selectors import Selector
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import InferenceService, ServiceKey

# Events are encoded with the time and the age of the view: no longer.
_SHARED_SECONDS = 0.1
_MOST_BATCHES = 16
_MOST_SHARED = 4


class EventType(StrEnum):
    """The type of a watch message; the values are the contract's names."""

    SNAPSHOT = "SNAPSHOT"
    SYNCED = "SYNCED"
    CHANGED = "CHANGED"
    DELETED = "DELETED"
    LEFT = "LEFT"
    HEARTBEAT = "HEARTBEAT"
    RESET = "RESET"


class Until(StrEnum):
    """The condition on which a watch ends."""

    FOREVER = "FOREVER"
    READY = "READY"
    GONE = "GONE"
    STOPPED = "STOPPED"


class Watch(NamedTuple):
    """A request to watch. `until` other than FOREVER needs a target with a name."""

    target: ServiceKey
    selector: Selector
    until: Until = Until.FOREVER
    rollout: Rollout | None = None
    resume_token: str = ""
    heartbeat: timedelta = timedelta(seconds=30)

    @property
    def binding(self) -> str:
        """A fingerprint that resume tokens are bound to."""
        return _binding(self.target, str(self.selector))


# Thousands of streams have the same.
@lru_cache(maxsize=1024)
def _binding(target: ServiceKey, selector: str) -> str:
    return fingerprint([*target, selector])


@dataclass(slots=True)
class WatchEvent:
    """One message. `service` is None for SYNCED, HEARTBEAT and RESET, and an identity for DELETED
    and LEFT. An event that several streams send `is_shared`: its bytes can be kept with it, and
    the event `without_text` of containers for readers who may not see it."""

    type: EventType
    service: InferenceService | ServiceIdentity | None
    resume_token: str
    is_shared: bool = field(default=False, compare=False)
    encoded: bytes = field(default=b"", compare=False, repr=False)
    without_text: WatchEvent | None = field(default=None, compare=False, repr=False)


# None stands for a moment in which other calls may have the event loop.
Events = list[WatchEvent] | Iterator[WatchEvent | None]


class _Batch(NamedTuple):
    """The events that a stream sends next, and its state after them."""

    events: list[WatchEvent]
    synced: bool
    last_sent: LastSent
    current: InferenceService | None


class _Place(NamedTuple):
    """All that decides which events a stream sends next.

    `scope`: of the caller's rights. `seen`: the version until which the reader has seen all, in a
    watch of many. `last_sent`: the last message, in a watch of one service. `step`: the stream's.
    """

    binding: str
    scope: str
    seen: int
    last_sent: LastSent
    step: Hashable


class SharedBatches:
    """Keeps the last batches for a moment: of thousands of streams that have come equally far, each
    sends the same events."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._batches: OrderedDict[_Place, tuple[Deadline, int, _Batch]] = OrderedDict()

    def get(self, place: _Place, target: ServiceKey) -> _Batch | None:
        """Return the batch of a place, unless the target has changed since."""
        expires, version, batch = self._batches.get(place, _NO_BATCH)
        if batch is None or expires.expired or self._cache.may_have_changed(version, target):
            return None
        return batch

    def put(self, place: _Place, version: int, batch: _Batch) -> None:
        """Keep a batch that leads to a version of the cache, if it is small."""
        if len(batch.events) > _MOST_SHARED:
            return
        for event in batch.events:
            event.is_shared = True
        self._drop_expired()
        self._batches[place] = Deadline.after(_SHARED_SECONDS), version, batch
        self._batches.move_to_end(place)
        if len(self._batches) > _MOST_BATCHES:
            self._batches.popitem(last=False)

    def _drop_expired(self) -> None:
        """Drop the batches that are kept no longer: each holds its services, and their bytes."""
        while self._batches and next(iter(self._batches.values()))[0].expired:
            self._batches.popitem(last=False)


_NO_BATCH: tuple[Deadline, int, None] = (Deadline(0), 0, None)


class _Unseen(NamedTuple):
    """The services with changes that the reader of a watch of many may lack, oldest first.

    `seen`: the versions that it has. `former_labels`: the labels that ended since, by uid.
    `rescoped`: the namespaces that are covered only since, or no longer.
    """

    services: Sequence[Entry | Tombstone]
    seen: Seen
    former_labels: Mapping[str, Sequence[FormerLabels]]
    rescoped: Collection[str]

    def labels_seen(self, service: Entry | Tombstone) -> Mapping[str, str] | None:
        """Return the labels with which the reader has seen a service; None: it did not exist."""
        seen = self.seen.at(service.born)
        if service.born > seen:
            return None
        former = self.former_labels.get(service.service.uid, ())
        # Those of a uid that was deleted and came back are another service's.
        ended = (f.labels for f in former if seen < f.version <= service.version)
        return next(ended, service.labels)


class WatchStream:
    """The state of one stream: what its reader has seen, and whether that is all (`synced`).

    `current`: in a watch of one service, the service as it was sent last.
    """

    __slots__ = (
        "_batches",
        "_binding",
        "_cache",
        "_changes",
        "_coverage",
        "_heartbeat_due",
        "_last_sent",
        "_positions",
        "_watch",
        "current",
        "synced",
    )

    def __init__(
        self,
        positions: SharedPosition,
        cache: WatchCache,
        batches: SharedBatches,
        watch: Watch,
        coverage: Coverage,
        changes: Subscription,
    ) -> None:
        self.current: InferenceService | None = None
        self.synced = False
        self._positions = positions
        self._cache = cache
        self._batches = batches
        self._watch = watch
        self._coverage = coverage
        self._changes = changes
        self._last_sent = NOTHING_SENT
        self._binding = watch.binding
        self._heartbeat_due = Deadline.after(watch.heartbeat)

    async def cover_new(self) -> None:
        """Decide about the namespaces of services that the reader has not seen."""
        since = seen = self._changes.version
        while self._coverage.scope and seen != self._cache.version:
            seen = self._cache.version
            changed = self._cache.changed_since(since, self._watch.target)
            await self._coverage.add([entry.service.key for entry in changed])

    def initial_events(self, resumed: ResumeToken | None) -> Events:
        """Return a snapshot, or for a resumed stream the changes since its token."""
        self._changes.version = self._cache.version
        if resumed is None:
            return self._shared(EventType.SNAPSHOT, partial(self._snapshot, is_reset=False))
        if self._watch.target.name and resumed != BEGIN_ANEW:
            self._last_sent = resumed.last_sent
            is_ours = resumed.epoch == self._cache.epoch
            changes = partial(self._changes_of_one, is_ours=is_ours)
            return self._shared((is_ours, self._watch.until), changes)
        if (resumed.epoch, resumed.scope) == (self._cache.epoch, self._coverage.scope):
            return self._changes_of_many(resumed.seen)
        return self.begin_anew()

    def begin_anew(self) -> Events:
        """Return RESET and a snapshot, after which the stream has to be synced again."""
        self.synced = False
        return self._snapshot(is_reset=True)

    def synced_events(self) -> Events:
        """Return the event that ends a snapshot, or the changes since a token."""
        self.synced = True
        return self._shared(EventType.SYNCED, lambda: [self._event(EventType.SYNCED)])

    def next_events(self, rescoped: Collection[str]) -> Events:
        """Return the events from what the reader has seen to the present, or a heartbeat if it is
        due. `rescoped`: the namespaces that are covered only since then, or no longer."""
        # A change within the target may still send nothing.
        return self._changes_since(rescoped) or self._heartbeats()

    def schedule(self) -> None:
        """Let the next wait end when there is something to do although nothing changes."""
        self._changes.due = self._heartbeat_due.sooner(self._coverage.due).at

    def _changes_since(self, rescoped: Collection[str]) -> Events:
        since, self._changes.version = self._changes.version, self._cache.version
        target = self._watch.target
        if rescoped:
            return self._changes_of_many(Seen(since), rescoped)
        if not self._cache.may_have_changed(since, target):
            return []
        if target.name:
            return self._shared(EventType.CHANGED, partial(self._changes_of_one, is_ours=True))
        changes = partial(self._changes_of_many, Seen(since))
        return self._shared(EventType.CHANGED, changes, since=since)

    def _heartbeats(self) -> Events:
        if not self._heartbeat_due.expired:
            return []
        return self._shared(EventType.HEARTBEAT, lambda: [self._event(EventType.HEARTBEAT)])

    def _shared(
        self, step: Hashable, make: Callable[[], Events], *, since: int | None = None
    ) -> Events:
        """Return the events of a step: those of another stream in the same place, or newly made.

        `since`: the version until which the reader has seen all, if the stream is past it.
        """
        seen = self._changes.version if since is None else since
        if self._watch.target.name:
            # There the last message says as much, at any version.
            seen = 0
        place = _Place(self._binding, self._coverage.scope, seen, self._last_sent, step)
        batch = self._batches.get(place, self._watch.target)
        if batch is None:
            events = make()
            if not isinstance(events, list):
                return events
            batch = _Batch(events, self.synced, self._last_sent, self.current)
            self._batches.put(place, self._changes.version, batch)
        _, self.synced, self._last_sent, self.current = batch
        if batch.events:
            self._heartbeat_due = Deadline.after(self._watch.heartbeat)
        return batch.events

    def _changes_of_one(self, *, is_ours: bool) -> list[WatchEvent]:
        """Return the events from the state that was sent last to now; `is_ours`: sent by this
        process."""
        key, last, events = self._watch.target, self._last_sent, list[WatchEvent]()
        now = self._cache.get(key)
        self.current = None
        if last.is_held and (now is None or now.uid != last.uid):
            gone = ServiceIdentity(key, last.uid, Rollout(last.uid, last.generation))
            events.append(self._event(EventType.DELETED, gone))
        if now and self._selects(now):
            self.current = now
            is_known = last.is_state(now, same_process=is_ours)
            # A wait ends right after the event of the service that decides it, changed or not.
            if not is_known or (not self.synced and self._watch.until is not Until.FOREVER):
                events.append(self._event(EventType.CHANGED, now))
        elif now and last.is_held and now.uid == last.uid:
            events.append(self._event(EventType.LEFT, _identity(now)))
        return events

    def _changes_of_many(self, seen: Seen, rescoped: Collection[str] = ()) -> Events:
        """Return the events from what the reader has seen to the present, or all anew if the cache
        does not reach back to it."""
        target, with_labels = self._watch.target, bool(self._watch.selector)
        changes = self._cache.changes_since(seen.version, target, with_labels=with_labels)
        if changes is None:
            return self.begin_anew()
        changed: Iterator[Entry | Tombstone] = chain(changes.changed, changes.deleted)
        unseen = {each.born: each for each in changed if each.version > seen.at(each.born)}
        for namespace in rescoped:
            for entry in self._cache.entries(ServiceKey(namespace, "")):
                unseen[entry.born] = entry
        services = [unseen[born] for born in sorted(unseen)]
        found = self._find(_Unseen(services, seen, changes.former_labels, rescoped))
        if len(services) > MATCHED_AT_ONCE:
            return found
        events = list(filter(None, found))
        if events:
            events[-1].resume_token = self._new_token()
        return events

    def _find(self, unseen: _Unseen) -> Iterator[WatchEvent | None]:
        """Yield the event of each service that has one."""
        for nth, each in enumerate(unseen.services, start=1):
            service, seen = each.service, unseen.labels_seen(each)
            covered = self._covers(service)
            was_covered = covered != (service.key.namespace in unseen.rescoped)
            if covered and isinstance(service, InferenceService) and self._selects(service):
                yield self._event(EventType.CHANGED, service, self._token_after(each, unseen))
            elif was_covered and seen is not None and self._watch.selector.matches(seen):
                if isinstance(service, InferenceService):
                    kind, service = EventType.LEFT, _identity(service)
                else:
                    # Without the right not even that it was deleted.
                    kind = EventType.DELETED if covered else EventType.LEFT
                yield self._event(kind, service, self._token_after(each, unseen))
            if nth % MATCHED_AT_ONCE == 0:
                yield None

    def _token_after(self, sent: Entry | Tombstone, unseen: _Unseen) -> str:
        """Return the token by which a stream continues right after the event of a service."""
        seen = unseen.seen.moved(sent.born, self._changes.version)
        if unseen.rescoped or len(seen.spans) > MOST_SPANS:
            return BEGIN_ANEW.encode(self._binding)
        return ResumeToken(self._cache.epoch, seen, self._coverage.scope).encode(self._binding)

    def _snapshot(self, *, is_reset: bool) -> Events:
        self._last_sent, self._changes.version = NOTHING_SENT, self._cache.version
        services = list(chain.from_iterable(map(self._cache.services, self._coverage.targets)))
        found = self._snapshot_of(services, is_reset=is_reset)
        return found if len(services) > MATCHED_AT_ONCE else list(filter(None, found))

    def _snapshot_of(
        self, services: Sequence[InferenceService], *, is_reset: bool
    ) -> Iterator[WatchEvent | None]:
        # Until SYNCED only a part of the snapshot is sent, perhaps of another replica.
        token = BEGIN_ANEW.encode(self._binding) if is_reset else ""
        if is_reset:
            yield self._event(EventType.RESET, token=token)
        if self._watch.target.name:
            self.current = next(filter(self._selects, services), None)
            if self.current:
                yield self._event(EventType.SNAPSHOT, self.current)
            return
        for nth, service in enumerate(services, start=1):
            if self._selects(service):
                yield self._event(EventType.SNAPSHOT, service, token)
            if nth % MATCHED_AT_ONCE == 0:
                yield None

    def _covers(self, service: InferenceService | ServiceIdentity) -> bool:
        return self._coverage.covers(service.key.namespace)

    def _selects(self, service: InferenceService) -> bool:
        return self._watch.selector.matches(service.selectable_labels)

    def _event(
        self,
        kind: EventType,
        service: InferenceService | ServiceIdentity | None = None,
        token: str | None = None,
    ) -> WatchEvent:
        """Return an event; without a `token`, one by which a stream continues from the present."""
        self._heartbeat_due = Deadline.after(self._watch.heartbeat)
        if self._watch.target.name and service:
            self._last_sent = _last_sent(kind, service)
        return WatchEvent(kind, service, self._new_token() if token is None else token)

    def _new_token(self) -> str:
        # Its reader has seen what this scope covers: in another one it may lack services.
        seen, scope = Seen(self._changes.version), self._coverage.scope
        token, key = ResumeToken(self._cache.epoch, seen, scope), self._watch.target
        if key.name:
            position = self._positions.at(seen.version, key)
            token = token._replace(
                last_sent=self._last_sent, position=position, made_at=int(time.time())
            )
        return token.encode(self._binding)


def _last_sent(kind: EventType, service: InferenceService | ServiceIdentity) -> LastSent:
    if isinstance(service, InferenceService):
        return sent_state(service)
    if kind is EventType.DELETED:
        return sent_deletion(service.uid, service.rollout.generation)
    return NOTHING_SENT


def _identity(service: InferenceService) -> ServiceIdentity:
    return ServiceIdentity(service.key, service.uid, service.rollout)
