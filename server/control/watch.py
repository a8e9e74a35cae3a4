"""WatchStatus: what one stream tells, in which order, and when a wait is over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from server.change_queue import ChangeQueue
from server.control.authorizer import Authorizer, Verb
from server.control.call import Call
from server.control.read import Reading
from server.control.watch_cache import ALL, Identity, View
from server.deadline import Deadline
from server.domain.errors import (
    ResumeTokenInvalid,
    RolloutFailed,
    RolloutGone,
    RolloutSuperseded,
    ServiceError,
    ServiceNotFound,
    ServiceStopped,
)
from server.domain.kubernetes.selectors import Selector
from server.domain.opaque_tokens import decode_token, encode_token
from server.domain.rollout.rollout_id import End, Outcome, Rollout, RolloutStatus, outcome
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.validation import check_key, check_namespace


class EventType(StrEnum):
    """What a message of a watch tells; the values are the contract's names."""

    SNAPSHOT = "SNAPSHOT"
    SYNCED = "SYNCED"
    CHANGED = "CHANGED"
    DELETED = "DELETED"
    LEFT = "LEFT"
    HEARTBEAT = "HEARTBEAT"
    RESET = "RESET"


class Until(StrEnum):
    """When a watch ends by itself."""

    FOREVER = "FOREVER"
    READY = "READY"
    GONE = "GONE"


@dataclass(frozen=True, slots=True)
class Watch:
    """What to follow and until when. `until` other than FOREVER needs a target with a name."""

    target: ServiceKey
    selector: Selector
    until: Until = Until.FOREVER
    rollout: Rollout | None = None
    resume_token: str = ""
    heartbeat: timedelta = timedelta(seconds=30)

    @property
    def binding(self) -> str:
        """What a resume token is bound to."""
        return fingerprint([*self.target, str(self.selector)])


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One message. `service` is None for SYNCED, HEARTBEAT and RESET, and for DELETED and LEFT only
    says which service it was."""

    type: EventType
    service: InferenceService | Identity | None
    resume_token: str


class Watching:
    """Streams over the view: the current state first, then the latest of every change."""

    def __init__(self, view: View, reading: Reading, authorizer: Authorizer) -> None:
        self._view = view
        self._reading = reading
        self._authorizer = authorizer

    async def watch(self, call: Call, watch: Watch) -> AsyncGenerator[WatchEvent, None]:
        """Tell until the wait is over, the caller leaves, or the server stops.

        Ends normally only when what was waited for came true. A wait that cannot come true raises
        RolloutFailed, RolloutSuperseded, RolloutGone or ServiceStopped, right after the service
        that decided it was told.
        """
        target = self._authorizer.authorize(call, Verb.WATCH, watch.target)
        if target.name:
            check_key(target)
        elif target.namespace != ALL:
            check_namespace(target.namespace)
        watch = replace(watch, target=target)
        self._view.require_synced()
        # Subscribe before reading: changes between the two would be lost.
        with self._view.subscribe(watch.target) as changes:
            wait = await self._wait(call, watch)
            stream = _Stream(self._view, watch)
            for event in stream.opening():
                yield event
            while not wait.is_over(stream.told.get(watch.target)):
                if stream.synced:
                    events = await self._next(stream, changes)
                else:
                    events = [stream.sync()]
                for event in events:
                    yield event

    async def _next(self, stream: _Stream, changes: ChangeQueue[ServiceKey]) -> list[WatchEvent]:
        self._view.require_running()
        await changes.wait(stream.silence_left())
        self._view.require_running()
        events = stream.owed(changes.pull())
        # Changes may concern this stream's target and still owe its reader nothing.
        if not events and not stream.silence_left():
            return [stream.heartbeat()]
        return events

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
            await self._reading.catch_up(call, watch.target, watch.rollout)
            return _UntilReady(watch.target, watch.rollout)
        service = self._view.get(watch.target)
        if service is None:
            raise ServiceNotFound(watch.target)
        return _UntilReady(watch.target, service.rollout)

    async def _until_gone(self, call: Call, watch: Watch) -> _Wait:
        if watch.rollout:
            with suppress(RolloutGone):
                await self._reading.catch_up(call, watch.target, watch.rollout)
            return _UntilGone(watch.rollout.uid)
        service = self._view.get(watch.target)
        return _UntilGone(service.uid if service else "")


class _Wait(Protocol):
    """When a watch is over, judged by the service that its stream told last."""

    def is_over(self, told: InferenceService | None) -> bool: ...


class _Forever:
    def is_over(self, told: InferenceService | None) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _UntilGone:
    uid: str

    def is_over(self, told: InferenceService | None) -> bool:
        return told is None or told.uid != self.uid


@dataclass(frozen=True, slots=True)
class _UntilReady:
    key: ServiceKey
    awaited: Rollout

    def is_over(self, told: InferenceService | None) -> bool:
        current = RolloutStatus(told.rollout, told.status) if told else None
        decided = outcome(self.awaited, current)
        if decided is None:
            return False
        if decided.end is End.READY:
            return True
        raise _ended_badly(self.key, decided, told.spec_writer if told else "")


def _ended_badly(key: ServiceKey, decided: Outcome, spec_writer: str) -> ServiceError:
    match decided.end:
        case End.SUPERSEDED:
            newer = f"a newer rollout of {key} replaced the awaited one"
            if not spec_writer:
                return RolloutSuperseded(newer)
            by = f"the field manager that wrote its spec last is {spec_writer}"
            return RolloutSuperseded(f"{newer}; {by}", field_manager=spec_writer)
        case End.STOPPED:
            return ServiceStopped(f"{key} is stopped, so the awaited rollout does not become ready")
        case End.FAILED:
            why = f"{decided.failure.reason}: {decided.failure.message}" if decided.failure else ""
            return RolloutFailed(f"the awaited rollout of {key} failed: {why}", decided.failure)
    return RolloutGone(
        f"the awaited rollout of {key} is gone: deleted, being deleted, or made anew"
    )


class _Stream:
    """What one stream has told its reader, and what it owes.

    `told` has the service last told by key; the services themselves are shared with the view, so
    a stream costs a slot a service, whatever its reader does.
    """

    def __init__(self, view: View, watch: Watch) -> None:
        self.told: dict[ServiceKey, InferenceService] = {}
        self.synced = False
        self._view = view
        self._watch = watch
        self._token = watch.resume_token
        self._binding = watch.binding
        self._opened_at = self._new_token()
        self._heartbeat_due = Deadline.after(watch.heartbeat)

    def opening(self) -> list[WatchEvent]:
        """The current state: a snapshot, or for a resumed stream what changed meanwhile."""
        since = _version_in(self._watch, self._view)
        departed = None if since is None else self._view.departed_since(since, self._watch.target)
        if since is None or departed is None:
            return self._snapshot()
        return self._missed(since, departed)

    def sync(self) -> WatchEvent:
        """Say that the current state is told; from here on messages carry tokens of their own."""
        self.synced = True
        self._token = self._opened_at
        return self._event(EventType.SYNCED)

    def heartbeat(self) -> WatchEvent:
        """Say that there is nothing to tell."""
        return self._event(EventType.HEARTBEAT)

    def silence_left(self) -> float:
        """Seconds until the reader has to hear something; 0 when it has to now."""
        return self._heartbeat_due.left()

    def owed(self, keys: Iterable[ServiceKey]) -> list[WatchEvent]:
        """Bring the reader from what it was told of these keys to what is.

        Only the last message moves the token: who resumes from an earlier one hears the rest again.
        """
        events = [event for key in keys for event in self._owed(key)]
        self._token = self._new_token()
        if events:
            events[-1] = replace(events[-1], resume_token=self._token)
        return events

    def _owed(self, key: ServiceKey) -> Iterator[WatchEvent]:
        before, now = self.told.get(key), self._view.get(key)
        if before and (now is None or now.uid != before.uid):
            yield self._event(EventType.DELETED, _identity(self.told.pop(key)))
        if now and self._selects(now):
            if self.told.get(key) is not now:
                yield self._tell(EventType.CHANGED, now)
        elif now and self.told.pop(key, None):
            yield self._event(EventType.LEFT, _identity(now))

    def _snapshot(self) -> list[WatchEvent]:
        resets = [self._event(EventType.RESET)] if self._watch.resume_token else []
        selected = filter(self._selects, self._view.services(self._watch.target))
        return resets + [self._tell(EventType.SNAPSHOT, service) for service in selected]

    def _missed(self, since: int, departed: list[Identity]) -> list[WatchEvent]:
        services = self._view.services(self._watch.target)
        self.told = {s.key: s for s in services if self._selects(s)}
        events = [self._event(EventType.DELETED, deleted) for deleted in departed]
        # A wait ends right after the service that decides it, so that is told though unchanged.
        known = since if self._watch.until is Until.FOREVER else -1
        for service in self._view.changed_since(known, self._watch.target):
            if self._selects(service):
                events.append(self._event(EventType.CHANGED, service))
            else:
                events.append(self._event(EventType.LEFT, _identity(service)))
        return events

    def _tell(self, kind: EventType, service: InferenceService) -> WatchEvent:
        self.told[service.key] = service
        return self._event(kind, service)

    def _selects(self, service: InferenceService) -> bool:
        return self._watch.selector.matches(service.selectable_labels)

    def _event(
        self, kind: EventType, service: InferenceService | Identity | None = None
    ) -> WatchEvent:
        self._heartbeat_due = Deadline.after(self._watch.heartbeat)
        return WatchEvent(kind, service, self._token)

    def _new_token(self) -> str:
        return encode_token([self._view.epoch, self._view.version, self._binding])


def _identity(service: InferenceService) -> Identity:
    return Identity(service.key, service.uid, service.rollout)


def _version_in(watch: Watch, view: View) -> int | None:
    """The view's version in the watch's token; None for no token, or one of another process."""
    if not watch.resume_token:
        return None
    match decode_token(watch.resume_token):
        case [str(epoch), int(version), watch.binding]:
            return version if epoch == view.epoch else None
    raise ResumeTokenInvalid("resume_token is not from a watch of this target and selector")
