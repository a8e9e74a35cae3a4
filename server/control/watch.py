"""WatchStatus: the opening of a stream, its loop, and the end of a wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

from server.control.authorizer import Authorizer, Coverage, Verb
from server.control.call import Call
from server.control.read import CATCH_UP_SECONDS, Reader
from server.control.resume_token import ResumeToken, SharedPosition, parse_resume_token
from server.control.wakeups import Subscription
from server.control.watch_cache import ALL, WatchCache
from server.control.watch_stream import SharedBatches, Until, Watch, WatchEvent, WatchStream
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
from server.domain.rollout.rollout_id import End, Outcome, Rollout, RolloutStatus, outcome
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.validation import check_key, check_namespace
from server.ports import Cluster

# The API server is probed more often.
_CURRENT = timedelta(seconds=10)
# Those of a storm would else have all their initial events in memory.
_OPENED_AT_ONCE = 100
_OPENING_SECONDS = 1.0


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
            stream = WatchStream(
                self._positions, self._cache, self._batches, watch, coverage, changes
            )
            opened = await self._openings.admit()
            try:
                await stream.cover_new(changes.version)
                events: Iterable[WatchEvent | None] = stream.initial_events(token)
                while True:
                    for event in events:
                        if event is None:
                            # Services that do not match take time too.
                            await asyncio.sleep(0)
                            continue
                        # A slow reader may take minutes for the ones before.
                        if coverage.due.expired and await coverage.renew():
                            events = stream.begin_anew()
                            break
                        yield await _shown(coverage, event)
                    else:
                        opened()
                        current = stream.current
                        if wait.is_over(current and await coverage.shown(current)):
                            return
                        # An idle stream keeps none.
                        del events
                        events = await self._next(stream, changes, coverage)
            finally:
                opened()

    async def _next(
        self, stream: WatchStream, changes: Subscription, coverage: Coverage
    ) -> Iterable[WatchEvent | None]:
        if not stream.synced:
            return stream.synced_events()
        self._cache.require_running()
        stream.schedule()
        since = await changes.wait()
        self._cache.require_running()
        rescoped = await coverage.renew() if coverage.due.expired else ()
        await stream.cover_new(since)
        # A change within the target may still send nothing.
        return stream.events_since(since, rescoped) or stream.heartbeats()

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
