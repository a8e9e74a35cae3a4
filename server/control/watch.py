"""WatchStatus: the events of a stream, their order, and the end of a wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import chain
from typing import Protocol

from server.change_queue import ChangeQueue
from server.control.authorizer import Authorizer, Coverage, Verb
from server.control.call import Call
from server.control.read import CATCH_UP_SECONDS, Reader
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


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One message. `service` is None for SYNCED, HEARTBEAT and RESET, and an identity for DELETED
    and LEFT."""

    type: EventType
    service: InferenceService | ServiceIdentity | None
    resume_token: str


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
        # Subscribe first: changes between the two would be lost.
        with self._cache.subscribe(watch.target) as changes:
            coverage = await self._authorizer.coverage(
                call, Verb.WATCH, target, self._cache.namespaces
            )
            token = parse_resume_token(watch.resume_token, watch.binding)
            if token and target.name and token.epoch != self._cache.epoch:
                token = await self._catch_up(target, token)
            wait = await self._wait(call, watch)
            stream = _WatchStream(self._positions, self._cache, watch, coverage, token)
            events = stream.initial_events()
            while True:
                for event in events:
                    # Also between two events: a slow reader may take minutes for the first ones.
                    if coverage.due.expired:
                        stream.rescope(await coverage.renew())
                    if stream.may_send(event):
                        yield event
                if wait.is_over(stream.sent.get(watch.target)):
                    return
                if stream.synced:
                    events = await self._next(stream, changes, coverage)
                else:
                    events = [stream.synced_event()]

    async def _next(
        self, stream: _WatchStream, changes: ChangeQueue[ServiceKey], coverage: Coverage
    ) -> list[WatchEvent]:
        self._cache.require_running()
        await changes.wait(min(stream.seconds_to_wait(), coverage.due.left()))
        self._cache.require_running()
        if coverage.due.expired:
            stream.rescope(await coverage.renew())
        keys = [*stream.rescoped(), *changes.pull()]
        await coverage.add(keys)
        events = stream.events_of(keys)
        # A change within the target may still send nothing.
        if not events and not stream.seconds_to_heartbeat():
            return [stream.heartbeat()]
        return events

    async def _catch_up(self, key: ServiceKey, token: ResumeToken) -> ResumeToken | None:
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
            await asyncio.sleep(min(pause, deadline.left()))
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


class _WatchStream:
    """The state of one stream.

    `sent` has the service that was sent last by key. Services are shared with the cache, so a
    stream takes one slot for each service, however slow its reader is.
    """

    def __init__(
        self,
        positions: SharedPosition,
        cache: WatchCache,
        watch: Watch,
        coverage: Coverage,
        resumed: ResumeToken | None,
    ) -> None:
        self.sent: dict[ServiceKey, InferenceService] = {}
        self.synced = False
        self._positions = positions
        self._cache = cache
        self._watch = watch
        self._coverage = coverage
        self._rescoped: set[str] = set()
        self._resumed = resumed
        # In a watch of one service.
        self._last_sent = resumed.last_sent if resumed else NOTHING_SENT
        self._token = watch.resume_token
        self._binding = watch.binding
        self._opened_at = self._new_token()
        self._heartbeat_due = Deadline.after(watch.heartbeat)

    def initial_events(self) -> list[WatchEvent]:
        """Return a snapshot, or for a resumed stream the changes since its token."""
        resumed = self._resumed
        if resumed is None:
            return self._snapshot()
        if self._watch.target.name:
            return self._changes_of_one(resumed)
        if (resumed.epoch, resumed.scope) != (self._cache.epoch, self._coverage.scope):
            return self._snapshot()
        changes = self._changes_since(resumed.version)
        return self._snapshot() if changes is None else changes

    def _changes_of_one(self, resumed: ResumeToken) -> list[WatchEvent]:
        """Return the events from the state that was sent last, by whichever replica, to now."""
        key, last, events = self._watch.target, resumed.last_sent, []
        now = self._cache.get(key)
        if last.is_held and (now is None or now.uid != last.uid):
            gone = ServiceIdentity(key, last.uid, Rollout(last.uid, last.generation))
            events.append(self._event(EventType.DELETED, gone))
        if now and self._selects(now):
            is_known = last.is_state(now, same_process=resumed.epoch == self._cache.epoch)
            # A wait ends right after the event of the service that decides it, changed or not.
            if is_known and self._watch.until is Until.FOREVER:
                self.sent[key] = now
            else:
                events.append(self._service_event(EventType.CHANGED, now))
        elif now and last.is_held and now.uid == last.uid:
            events.append(self._event(EventType.LEFT, _identity(now)))
        return events

    def synced_event(self) -> WatchEvent:
        """Return the event that ends the initial ones. From here on events move the token."""
        self.synced = True
        self._token = self._new_token() if self._watch.target.name else self._opened_at
        return self._event(EventType.SYNCED)

    def heartbeat(self) -> WatchEvent:
        """Return the event of a quiet stream."""
        return self._event(EventType.HEARTBEAT)

    def seconds_to_heartbeat(self) -> float:
        """Return the seconds until the next heartbeat is due; 0 when it is."""
        return self._heartbeat_due.left()

    def seconds_to_wait(self) -> float:
        """Return the seconds until there is something to do although nothing changes."""
        return 0 if self._rescoped else self.seconds_to_heartbeat()

    def may_send(self, event: WatchEvent) -> bool:
        """Report whether the caller may still see an event: of what it may not, only that it
        LEFT."""
        service = event.service
        return service is None or event.type is EventType.LEFT or self._covers(service)

    def rescope(self, namespaces: Collection[str]) -> None:
        """Note namespaces that are covered only now, or no longer."""
        self._rescoped.update(namespaces)

    def rescoped(self) -> list[ServiceKey]:
        """Return the services of the namespaces that were noted, and forget these."""
        if not self._rescoped:
            return []
        namespaces, self._rescoped = sorted(self._rescoped), set()
        present = (s.key for n in namespaces for s in self._cache.services(ServiceKey(n, "")))
        return sorted({*present, *(key for key in self.sent if key.namespace in namespaces)})

    def events_of(self, keys: Iterable[ServiceKey]) -> list[WatchEvent]:
        """Return the events from the states sent last to the current ones.

        Only the last event moves the token: a stream resumed from an earlier one gets them again.
        """
        events = [event for key in keys for event in self._events_of(key)]
        self._token = self._new_token()
        if events:
            events[-1] = replace(events[-1], resume_token=self._token)
        return events

    def _events_of(self, key: ServiceKey) -> Iterator[WatchEvent]:
        before, now = self.sent.get(key), self._cache.get(key)
        if not self._coverage.covers(key.namespace):
            # Not even that it was deleted.
            if before:
                yield self._event(EventType.LEFT, _identity(self.sent.pop(key)))
            return
        if before and (now is None or now.uid != before.uid):
            yield self._event(EventType.DELETED, _identity(self.sent.pop(key)))
        if now and self._selects(now):
            if self.sent.get(key) is not now:
                yield self._service_event(EventType.CHANGED, now)
        elif now and self.sent.pop(key, None):
            yield self._event(EventType.LEFT, _identity(now))

    def _snapshot(self) -> list[WatchEvent]:
        resets = []
        if self._watch.resume_token:
            # Until SYNCED only a part of the snapshot is sent, perhaps of another replica.
            self._token = BEGIN_ANEW.encode(self._binding)
            resets = [self._event(EventType.RESET)]
        selected = filter(self._selects, self._services())
        return resets + [self._service_event(EventType.SNAPSHOT, service) for service in selected]

    def _changes_since(self, since: int) -> list[WatchEvent] | None:
        """Return the events since a version; None if the cache does not reach back to it."""
        deleted = self._cache.deleted_since(since, self._watch.target)
        if deleted is None:
            return None
        self.sent = {s.key: s for s in self._services() if self._selects(s)}
        events = [self._event(EventType.DELETED, each) for each in deleted if self._covers(each)]
        # A wait ends right after the event of the service that decides it, changed or not.
        known = since if self._watch.until is Until.FOREVER else -1
        for service in self._cache.changed_since(known, self._watch.target):
            if not self._covers(service):
                continue
            if self._selects(service):
                events.append(self._event(EventType.CHANGED, service))
                continue
            former = self._cache.labels_since(service.key, since)
            if former is None:
                return None
            # Otherwise the reader cannot have seen it.
            if any(map(self._watch.selector.matches, former)):
                events.append(self._event(EventType.LEFT, _identity(service)))
        return events

    def _services(self) -> Iterator[InferenceService]:
        return chain.from_iterable(map(self._cache.services, self._coverage.targets))

    def _covers(self, service: InferenceService | ServiceIdentity) -> bool:
        return self._coverage.covers(service.key.namespace)

    def _service_event(self, kind: EventType, service: InferenceService) -> WatchEvent:
        self.sent[service.key] = service
        return self._event(kind, service)

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
        epoch, version, scope = self._cache.epoch, self._cache.version, self._coverage.scope
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
