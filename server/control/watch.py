"""WatchStatus: the opening of a stream, its loop, and the end of a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

from server.control.authorizer import Authorizer, Coverage, Verb
from server.control.call import Call
from server.control.read import CATCH_UP_SECONDS, Reader
from server.control.resume_token import (
    BEGIN_ANEW,
    ResumeToken,
    SharedPosition,
    parse_resume_token,
)
from server.control.wakeups import Subscription
from server.control.watch_cache import ALL, WatchCache
from server.control.watch_stream import (
    Events,
    SharedBatches,
    Until,
    Watch,
    WatchEvent,
    WatchStream,
)
from server.deadline import Deadline
from server.domain.errors import (
    RolloutFailed,
    RolloutGone,
    RolloutSuperseded,
    ServiceError,
    ServiceNotFound,
    ServiceNotStopping,
    ServiceStopped,
    ViewBehind,
)
from server.domain.rollout.rollout_id import (
    End,
    Outcome,
    Rollout,
    RolloutStatus,
    outcome,
    stop_outcome,
)
from server.domain.service.commands import is_stop_requested
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.validation import check_key, check_namespace
from server.ports import Cluster

# The API server is probed more often.
_CURRENT = timedelta(seconds=10)
# Those of a storm would else have all their initial events in memory.
_OPENED_AT_ONCE = 100
_OPENING_SECONDS = 1.0

Send = Callable[[WatchEvent], Awaitable[None]]


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
        self._batches = SharedBatches(cache)
        self._openings = asyncio.Semaphore(_OPENED_AT_ONCE)
        # One for all streams.
        self._namespaces = cache.namespaces

    async def watch(self, call: Call, watch: Watch, send: Send) -> None:
        """Send events until the wait is over, the caller leaves, or the server stops.

        It ends normally only when the awaited state was reached. If it cannot be reached any more,
        RolloutFailed, RolloutSuperseded, RolloutGone, ServiceStopped or ServiceNotStopping is
        raised right after the event of the service that decided it. A watch of `-` has the
        namespaces that the caller may watch: services of one that it may watch no longer are LEFT.
        PermissionDenied is raised where no namespace is left, and Unauthenticated when the caller's
        token ends.
        """
        target = await self._authorizer.authorize(call, Verb.WATCH, watch.target)
        if target.name:
            check_key(target)
        elif target.namespace != ALL:
            check_namespace(target.namespace)
        self._cache.require_synced()
        with self._cache.subscribe(target) as changes:
            # Thousands of streams are open: they share their target, and keep no token.
            target = changes.target
            watch = watch._replace(target=target)
            coverage = await self._authorizer.coverage(call, Verb.WATCH, target, self._namespaces)
            token = None
            if watch.resume_token:
                token = await self._resumed(watch, changes)
                watch = watch._replace(resume_token="")
            wait = await self._wait(call, watch)
            stream = WatchStream(
                self._positions, self._cache, self._batches, watch, coverage, changes
            )
            # The first events of one service are few, and shared.
            async with nullcontext() if target.name else _Opening(self._openings):
                await stream.cover_new()
                await _deliver(stream, stream.initial_events(token), coverage, send)
            del token
            while not wait.is_over(stream.current and await coverage.shown(stream.current)):
                if not stream.synced:
                    await _deliver(stream, stream.synced_events(), coverage, send)
                self._cache.require_running()
                stream.schedule()
                await changes.woken()
                self._cache.require_running()
                rescoped = await coverage.renew() if coverage.due.expired else ()
                await stream.cover_new()
                await _deliver(stream, stream.next_events(rescoped), coverage, send)

    async def _resumed(self, watch: Watch, changes: Subscription) -> ResumeToken | None:
        """Return the token from which a watch goes on, if it has one. One of another process goes
        on in a watch of one service only."""
        token = parse_resume_token(watch.resume_token, watch.binding)
        if token is None or token == BEGIN_ANEW or token.epoch == self._cache.epoch:
            return token
        return await self._catch_up(watch.target, token, changes) if watch.target.name else token

    async def _catch_up(
        self, key: ServiceKey, token: ResumeToken, changes: Subscription
    ) -> ResumeToken:
        """Wait until this replica is not behind a token of another, and return it. Raises
        ViewBehind after 2 s.

        BEGIN_ANEW if it never will be: the view is current, and has not what the cluster had long
        ago, as after a restore of the cluster.
        """
        deadline, pause = Deadline.after(CATCH_UP_SECONDS), 0.01
        while not self._cluster.reached(key, token.position) or token.last_sent.is_contradicted(
            self._cache.get(key)
        ):
            age = self._cluster.age()
            if not deadline.left():
                if token.is_old and age is not None and age < _CURRENT:
                    return BEGIN_ANEW
                raise ViewBehind(f"this replica is behind the resume_token of {key}: try again")
            # Of a service that changes all the time, it is reached right after a report only.
            await changes.wait(min(pause, deadline.left()))
            self._cache.require_running()
            pause *= 2
        return token

    async def _wait(self, call: Call, watch: Watch) -> _Wait:
        match watch.until:
            case Until.FOREVER:
                return _FOREVER
            case Until.GONE:
                return await self._until_gone(call, watch)
            case Until.READY:
                return _UntilReady(watch.target, await self._awaited(call, watch))
            case Until.STOPPED:
                return _UntilStopped(watch.target, await self._awaited(call, watch))

    async def _awaited(self, call: Call, watch: Watch) -> Rollout:
        if watch.rollout:
            await self._reader.catch_up(call, watch.target, watch.rollout)
            return watch.rollout
        service = self._cache.get(watch.target)
        if service is None:
            raise ServiceNotFound(watch.target)
        return service.rollout

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


_FOREVER = _Forever()


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
        decided = outcome(self.awaited, _status_of(sent))
        return _is_reached(End.READY, self.key, decided, sent)


@dataclass(frozen=True, slots=True)
class _UntilStopped:
    key: ServiceKey
    awaited: Rollout

    def is_over(self, sent: InferenceService | None) -> bool:
        stop_asked = sent is not None and is_stop_requested(sent.annotations)
        decided = stop_outcome(self.awaited, _status_of(sent), stop_asked=stop_asked)
        return _is_reached(End.STOPPED, self.key, decided, sent)


def _status_of(sent: InferenceService | None) -> RolloutStatus | None:
    return RolloutStatus(sent.rollout, sent.status) if sent else None


def _is_reached(
    end: End, key: ServiceKey, decided: Outcome | None, sent: InferenceService | None
) -> bool:
    """Report whether a wait has reached its end. Raises the error of any other end."""
    if decided is None:
        return False
    if decided.end is end:
        return True
    raise _error_of(key, decided, sent.spec_writer if sent else "")


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
        case End.NOT_STOPPING:
            return ServiceNotStopping(
                f"{key} is neither stopped nor on its way to it: call Stop first"
            )
        case End.FAILED:
            why = f"{decided.failure.reason}: {decided.failure.message}" if decided.failure else ""
            return RolloutFailed(f"the awaited rollout of {key} failed: {why}", decided.failure)
    return RolloutGone(
        f"the awaited rollout of {key} is gone: its service was deleted, is being deleted,"
        " or was created again"
    )


async def _deliver(stream: WatchStream, events: Events, coverage: Coverage, send: Send) -> None:
    """Send events; all anew if the caller's rights change meanwhile, as a slow reader may take
    minutes."""
    while True:
        for event in events:
            if event is None:
                # Services that do not match take time too.
                await asyncio.sleep(0)
            elif coverage.due.expired and await coverage.renew():
                events = stream.begin_anew()
                break
            else:
                await send(await _shown(coverage, event))
        else:
            return


async def _shown(coverage: Coverage, event: WatchEvent) -> WatchEvent:
    """Return an event as the caller may see it. Streams share those with the text of containers,
    and those without."""
    if not isinstance(event.service, InferenceService):
        return event
    shown = await coverage.shown(event.service)
    if shown is event.service:
        return event
    event.without_text = event.without_text or replace(event, service=shown, encoded=b"")
    return event.without_text


class _Opening:
    """A slot in which a stream of many services sends its initial events: those of a storm come
    some at a time. A reader that takes them slowly is not waited for: after _OPENING_SECONDS its
    slot is free."""

    __slots__ = ("_slots", "_timer")

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        self._timer = asyncio.get_running_loop().call_later(_OPENING_SECONDS, self._free)

    async def __aexit__(self, *error: object) -> None:
        self._free()

    def _free(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._slots.release()
