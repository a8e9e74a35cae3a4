"""WatchStatus: the events of a stream, their order, and the end of a wait."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from itertools import chain
from typing import NamedTuple, Protocol

from server.control.authorizer import Authorizer, Coverage, Verb
from server.control.call import Call
from server.control.read import CATCH_UP_SECONDS, MATCHED_AT_ONCE, Reader
from server.control.resume_token import (
    BEGIN_ANEW,
    NOTHING_SENT,
    LastSent,
    ResumeToken,
    SharedPosition,
    parse_resume_token,
    sent_deletion,
    sent_state,
)
from server.control.wakeups import Subscription
from server.control.watch_cache import ALL, ServiceIdentity, WatchCache
from server.deadline import Deadline
from server.domain.errors import (
    RolloutFailed,
    RolloutGone,
    RolloutSuperseded,
    ServiceError,
    ServiceNotFound,
    ServiceStopped,
    ViewBehind,
)
from server.domain.kubernetes.selectors import Selector
from server.domain.rollout.rollout_id import End, Outcome, Rollout, RolloutStatus, outcome
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.validation import check_key, check_namespace
from server.ports import Cluster

# The API server is probed more often.
_CURRENT = timedelta(seconds=10)

# Those of a storm would else have all their initial events in memory.
_OPENED_AT_ONCE = 100
_OPENING_SECONDS = 1.0
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


@dataclass(frozen=True, slots=True)
class Watch:
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
        return fingerprint([*self.target, str(self.selector)])


@dataclass(slots=True)
class WatchEvent:
    """One message. `service` is None for SYNCED, HEARTBEAT and RESET, and an identity for DELETED
    and LEFT. An event that several streams send `is_shared`: its bytes can be kept with it."""

    type: EventType
    service: InferenceService | ServiceIdentity | None
    resume_token: str
    is_shared: bool = field(default=False, compare=False)
    encoded: bytes = field(default=b"", compare=False, repr=False)


class Watcher:
    """Watches the cache: the current state first, then the latest state after every change."""

    def __init__(
        self, cluster: Cluster, cache: WatchCache, reader: Reader, authorizer: Authorizer
    ) -> None:
        self._cluster = cluster
        self._positions = SharedPosition(cluster)
        self._cache = cache
        self._reader = reader
        self._authorizer = authorizer
        self._batches = _SharedBatches(cache)
        self._openings = _Openings()

    async def watch(self, call: Call, watch: Watch) -> AsyncGenerator[WatchEvent, None]:
        """Yield events until the wait is over, the caller leaves, or the server stops.

        It ends normally only when the awaited state was reached. If it cannot be reached any more,
        RolloutFailed, RolloutSuperseded, RolloutGone or ServiceStopped is raised right after the
        event of the service that decided it. A watch of `-` has the namespaces that the caller may
        watch: services of one that it may watch no longer are LEFT. PermissionDenied is raised
        where no namespace is left, and Unauthenticated when the caller's token ends.
        """
        target = await self._authorizer.authorize(call, Verb.WATCH, watch.target)
        if target.name:
            check_key(target)
        elif target.namespace != ALL:
            check_namespace(target.namespace)
        watch = replace(watch, target=target)
        self._cache.require_synced()
        with self._cache.subscribe(target) as changes:
            coverage = await self._authorizer.coverage(
                call, Verb.WATCH, target, self._cache.namespaces
            )
            token = parse_resume_token(watch.resume_token, watch.binding)
            if token and target.name and token.epoch != self._cache.epoch:
                token = await self._catch_up(target, token, changes)
            wait = await self._wait(call, watch)
            stream = _WatchStream(
                self._positions, self._cache, self._batches, watch, coverage, changes
            )
            opened = await self._openings.admit()
            try:
                await stream.cover_new(changes.version)
                events = stream.initial_events(token)
                while True:
                    for event in events:
                        if event is None:
                            # Services that do not match take time too.
                            await asyncio.sleep(0)
                            continue
                        # A slow reader may take minutes for the ones before.
                        if coverage.due.expired:
                            stream.rescope(await coverage.renew())
                        if stream.may_send(event):
                            yield await _shown(coverage, event)
                    opened()
                    current = stream.current
                    if wait.is_over(current and await coverage.shown(current)):
                        return
                    events = await self._next(stream, changes, coverage)
            finally:
                opened()

    async def _next(
        self, stream: _WatchStream, changes: Subscription, coverage: Coverage
    ) -> Iterable[WatchEvent | None]:
        if not stream.synced:
            return [stream.synced_event()]
        self._cache.require_running()
        stream.schedule()
        since = await changes.wait()
        self._cache.require_running()
        if coverage.due.expired:
            stream.rescope(await coverage.renew())
        await stream.cover_new(since)
        events = stream.events_since(since)
        # A change within the target may still send nothing.
        return events or stream.heartbeats()

    async def _catch_up(
        self, key: ServiceKey, token: ResumeToken, changes: Subscription
    ) -> ResumeToken | None:
        """Wait until this replica is not behind a token of another. Raises ViewBehind after 2 s.

        None if it never will be: the view is current, and has not what the cluster had long ago, as
        after a restore of the cluster.
        """
        deadline, pause = Deadline.after(CATCH_UP_SECONDS), 0.01
        while not self._cluster.reached(key, token.position) or token.last_sent.is_contradicted(
            self._cache.get(key)
        ):
            age = self._cluster.age()
            if not deadline.left():
                if token.is_old and age is not None and age < _CURRENT:
                    return None
                raise ViewBehind(f"this replica is behind the resume_token of {key}: try again")
            # Of a service that changes all the time, it is reached right after a report only.
            await changes.wait(min(pause, deadline.left()))
            self._cache.require_running()
            pause *= 2
        return token

    async def _wait(self, call: Call, watch: Watch) -> _Wait:
        match watch.until:
            case Until.FOREVER:
                return _Forever()
            case Until.GONE:
                return await self._until_gone(call, watch)
            case Until.READY:
                return await self._until_ready(call, watch)

    async def _until_ready(self, call: Call, watch: Watch) -> _Wait:
        if watch.rollout:
            await self._reader.catch_up(call, watch.target, watch.rollout)
            return _UntilReady(watch.target, watch.rollout)
        service = self._cache.get(watch.target)
        if service is None:
            raise ServiceNotFound(watch.target)
        return _UntilReady(watch.target, service.rollout)

    async def _until_gone(self, call: Call, watch: Watch) -> _Wait:
        if watch.rollout:
            with suppress(RolloutGone):
                await self._reader.catch_up(call, watch.target, watch.rollout)
            return _UntilGone(watch.rollout.uid)
        service = self._cache.get(watch.target)
        return _UntilGone(service.uid if service else "")


class _Wait(Protocol):
    """Decides from the service that was sent last whether a watch is over."""

    def is_over(self, sent: InferenceService | None) -> bool: ...


class _Forever:
    def is_over(self, sent: InferenceService | None) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _UntilGone:
    uid: str

    def is_over(self, sent: InferenceService | None) -> bool:
        return sent is None or sent.uid != self.uid


@dataclass(frozen=True, slots=True)
class _UntilReady:
    key: ServiceKey
    awaited: Rollout

    def is_over(self, sent: InferenceService | None) -> bool:
        current = RolloutStatus(sent.rollout, sent.status) if sent else None
        decided = outcome(self.awaited, current)
        if decided is None:
            return False
        if decided.end is End.READY:
            return True
        raise _error_of(self.key, decided, sent.spec_writer if sent else "")


def _error_of(key: ServiceKey, decided: Outcome, spec_writer: str) -> ServiceError:
    match decided.end:
        case End.SUPERSEDED:
            newer = f"a newer rollout of {key} replaced the awaited one"
            if not spec_writer:
                return RolloutSuperseded(newer)
            by = f"the field manager {spec_writer} wrote its spec last"
            return RolloutSuperseded(f"{newer}; {by}", field_manager=spec_writer)
        case End.STOPPED:
            return ServiceStopped(f"{key} is stopped, so the awaited rollout does not become ready")
        case End.FAILED:
            why = f"{decided.failure.reason}: {decided.failure.message}" if decided.failure else ""
            return RolloutFailed(f"the awaited rollout of {key} failed: {why}", decided.failure)
    return RolloutGone(
        f"the awaited rollout of {key} is gone: its service was deleted, is being deleted,"
        " or was created again"
    )


async def _shown(coverage: Coverage, event: WatchEvent) -> WatchEvent:
    """Return an event as the caller may see it. Streams share those with the text of containers."""
    if not isinstance(event.service, InferenceService):
        return event
    shown = await coverage.shown(event.service)
    if shown is event.service:
        return event
    return replace(event, service=shown, is_shared=False, encoded=b"")


class _Openings:
    """Limits the streams that get their initial events at a time: those of a storm come one after
    the other. A reader that takes them slowly is not waited for."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_OPENED_AT_ONCE)

    async def admit(self) -> Callable[[], None]:
        """Wait for a slot, and return the function that frees it, which may be called again. After
        _OPENING_SECONDS it is free anyway."""
        await self._slots.acquire()
        slot = _Slot(self._slots)
        timer = asyncio.get_running_loop().call_later(_OPENING_SECONDS, slot.free)

        def opened() -> None:
            timer.cancel()
            slot.free()

        return opened


@dataclass(slots=True)
class _Slot:
    """A slot of an opening, which is freed once."""

    slots: asyncio.Semaphore
    is_free: bool = False

    def free(self) -> None:
        if not self.is_free:
            self.is_free = True
            self.slots.release()


class _Batch(NamedTuple):
    """The events from one version of the cache to another; in a watch of one service also the
    message that was sent last, and the current state."""

    events: list[WatchEvent]
    last_sent: LastSent
    current: InferenceService | None


class _SharedBatches:
    """Keeps the last batches for a moment: of thousands of streams that have come equally far, each
    sends the same events."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._batches: OrderedDict[_Place, tuple[Deadline, int, _Batch]] = OrderedDict()

    def get(self, place: _Place, target: ServiceKey) -> _Batch | None:
        """Return the batch from a place to the present state of a target."""
        expires, version, batch = self._batches.get(place, _NO_BATCH)
        if batch is None or expires.expired or self._cache.may_have_changed(version, target):
            return None
        return batch

    def put(self, place: _Place, batch: _Batch) -> None:
        """Keep a batch to the present, if it is small."""
        if len(batch.events) > _MOST_SHARED:
            return
        for event in batch.events:
            event.is_shared = True
        self._batches[place] = Deadline.after(_SHARED_SECONDS), self._cache.version, batch
        self._batches.move_to_end(place)
        if len(self._batches) > _MOST_BATCHES:
            self._batches.popitem(last=False)


class _Place(NamedTuple):
    """All that decides which events a stream sends next."""

    binding: str
    scope: str
    version: int
    last_sent: LastSent


_NO_BATCH: tuple[Deadline, int, None] = (Deadline(0), 0, None)


class _WatchStream:
    """The state of one stream: a version of the cache, up to which its reader has seen the target.

    What the reader has seen there follows from the versions and labels in the cache, so that a
    stream costs the same however many services it covers, and however slow its reader is.
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
        "_rescoped",
        "_token",
        "_watch",
        "current",
        "synced",
    )

    def __init__(
        self,
        positions: SharedPosition,
        cache: WatchCache,
        batches: _SharedBatches,
        watch: Watch,
        coverage: Coverage,
        changes: Subscription,
    ) -> None:
        # In a watch of one service: as it was sent last.
        self.current: InferenceService | None = None
        self.synced = False
        self._positions = positions
        self._cache = cache
        self._batches = batches
        self._watch = watch
        self._coverage = coverage
        self._changes = changes
        # Whether they were covered before, of namespaces whose coverage has changed.
        self._rescoped: dict[str, bool] = {}
        self._last_sent = NOTHING_SENT
        self._token = watch.resume_token
        self._binding = watch.binding
        self._heartbeat_due = Deadline.after(watch.heartbeat)

    async def cover_new(self, since: int) -> None:
        """Decide about the namespaces of services that are new since a version."""
        seen = since
        while self._coverage.scope and seen != self._cache.version:
            seen = self._cache.version
            changed = self._cache.changed_since(since, self._watch.target)
            await self._coverage.add([entry.service.key for entry in changed])

    def initial_events(self, resumed: ResumeToken | None) -> Iterable[WatchEvent | None]:
        """Return a snapshot, or for a resumed stream the changes since its token.

        None stands for a moment in which other calls may have the event loop.
        """
        self._changes.version = self._cache.version
        if resumed is None:
            return self._snapshot(is_reset=bool(self._watch.resume_token))
        if self._watch.target.name:
            self._last_sent = resumed.last_sent
            return self._changes_of_one(is_ours=resumed.epoch == self._cache.epoch)
        if (resumed.epoch, resumed.scope) == (self._cache.epoch, self._coverage.scope):
            events = self._changes_of_many(resumed.version, exact=False)
            if events is not None:
                return events
        return self._snapshot(is_reset=True)

    def synced_event(self) -> WatchEvent:
        """Return the event that ends the initial ones. From here on events move the token."""
        self.synced = True
        self._token = self._new_token()
        return self._event(EventType.SYNCED)

    def events_since(self, since: int) -> Iterable[WatchEvent | None]:
        """Return the events from a version, up to which the reader has seen all, to the present.

        Only the last event moves the token: a stream resumed from an earlier one gets them again.
        """
        target = self._watch.target
        self._changes.version = self._cache.version
        if not self._rescoped and not self._cache.may_have_changed(since, target):
            return []
        place = _Place(self._binding, self._coverage.scope, since, self._last_sent)
        batch = None if self._rescoped else self._batches.get(place, target)
        if batch is None:
            if target.name:
                events = self._changes_of_one(is_ours=True)
            else:
                changed = self._changes_of_many(since, exact=True)
                if changed is None:
                    self.synced = False
                    return self._snapshot(is_reset=True)
                events = changed
                if events:
                    self._token = events[-1].resume_token = self._new_token()
            batch = _Batch(events, self._last_sent, self.current)
            if not self._rescoped:
                self._batches.put(place, batch)
            self._rescoped.clear()
        self._last_sent, self.current = batch.last_sent, batch.current
        if batch.events:
            self._token = batch.events[-1].resume_token
            self._heartbeat_due = Deadline.after(self._watch.heartbeat)
        return batch.events

    def heartbeats(self) -> list[WatchEvent]:
        """Return the event of a quiet stream, if it is due."""
        if not self._heartbeat_due.expired:
            return []
        self._token = self._new_token()
        return [self._event(EventType.HEARTBEAT)]

    def schedule(self) -> None:
        """Let the next wait end when there is something to do although nothing changes."""
        due = self._heartbeat_due.sooner(self._coverage.due)
        self._changes.due = 0.0 if self._rescoped else due.at

    def may_send(self, event: WatchEvent) -> bool:
        """Report whether the caller may still see an event: of what it may not, only that it
        LEFT."""
        service = event.service
        return service is None or event.type is EventType.LEFT or self._covers(service)

    def rescope(self, namespaces: Collection[str]) -> None:
        """Note namespaces that are covered only now, or no longer."""
        for namespace in namespaces:
            self._rescoped.setdefault(namespace, not self._coverage.covers(namespace))

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

    def _changes_of_many(self, since: int, *, exact: bool) -> list[WatchEvent] | None:
        """Return the events since a version; None if the cache does not reach back to it.

        `exact`: the reader has seen the states at this version. Else it may have seen later ones
        too, in a stream that was cut before it sent the next token.
        """
        selector, target = self._watch.selector, self._watch.target
        changes = self._cache.changes_since(since, target, with_labels=bool(selector))
        if changes is None:
            return None

        def was_seen(uid: str, born: int, last: Mapping[str, str]) -> bool:
            labels = [*(former.labels for former in changes.former_labels.get(uid, ())), last]
            if exact:
                return born <= since and selector.matches(labels[0])
            return any(map(selector.matches, labels))

        changed = {entry.service.key: entry for entry in changes.changed}
        for namespace in self._rescoped:
            for entry in self._cache.entries(ServiceKey(namespace, "")):
                changed[entry.service.key] = entry
        found: list[tuple[int, EventType, InferenceService | ServiceIdentity]] = []
        for entry in changed.values():
            service = entry.service
            if self._covers(service) and self._selects(service):
                found.append((entry.version, EventType.CHANGED, service))
            elif self._was_covered(service) and was_seen(
                service.uid, entry.born, service.selectable_labels
            ):
                found.append((entry.version, EventType.LEFT, _identity(service)))
        for version, gone, born, labels in changes.deleted:
            if self._was_covered(gone) and was_seen(gone.uid, born, labels):
                # Not even that it was deleted.
                kind = EventType.DELETED if self._covers(gone) else EventType.LEFT
                found.append((version, kind, gone))
        found.sort(key=lambda event: event[0])
        if self._rescoped:
            # As in a snapshot.
            found.sort(key=lambda event: event[2].key)
        return [self._event(kind, service) for _, kind, service in found]

    def _snapshot(self, *, is_reset: bool) -> Iterable[WatchEvent | None]:
        resets = []
        if is_reset:
            # Until SYNCED only a part of the snapshot is sent, perhaps of another replica.
            self._token = BEGIN_ANEW.encode(self._binding)
            resets = [self._event(EventType.RESET)]
        self._last_sent, self._changes.version = NOTHING_SENT, self._cache.version
        self._rescoped.clear()
        services = list(self._services())
        if self._watch.target.name:
            selected = [service for service in services if self._selects(service)]
            self.current = selected[0] if selected else None
            return resets + [self._event(EventType.SNAPSHOT, service) for service in selected]
        return chain(resets, self._snapshot_of(services))

    def _snapshot_of(self, services: Sequence[InferenceService]) -> Iterator[WatchEvent | None]:
        for nth, service in enumerate(services, start=1):
            if self._selects(service):
                yield self._event(EventType.SNAPSHOT, service)
            if nth % MATCHED_AT_ONCE == 0:
                yield None

    def _services(self) -> Iterator[InferenceService]:
        return chain.from_iterable(map(self._cache.services, self._coverage.targets))

    def _covers(self, service: InferenceService | ServiceIdentity) -> bool:
        return self._coverage.covers(service.key.namespace)

    def _was_covered(self, service: InferenceService | ServiceIdentity) -> bool:
        return self._rescoped.get(service.key.namespace, self._covers(service))

    def _selects(self, service: InferenceService) -> bool:
        return self._watch.selector.matches(service.selectable_labels)

    def _event(
        self, kind: EventType, service: InferenceService | ServiceIdentity | None = None
    ) -> WatchEvent:
        self._heartbeat_due = Deadline.after(self._watch.heartbeat)
        if self._watch.target.name and service:
            self._last_sent = _last_sent(kind, service)
            self._token = self._new_token()
        return WatchEvent(kind, service, self._token)

    def _new_token(self) -> str:
        # Its reader has seen what this scope covers: in another one it may lack services.
        epoch, version, scope = self._cache.epoch, self._changes.version, self._coverage.scope
        token, key = ResumeToken(epoch, version, scope), self._watch.target
        if key.name:
            position = self._positions.at(version, key)
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
