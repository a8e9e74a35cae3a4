"""Carry out a command on exactly the object that it was planned on, or plan it again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakValueDictionary

from server.adapters.kserve.apply.api_server_errors import unavailable
from server.adapters.kserve.apply.service_client import LEAST_TIME, ServiceClient
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.manifests.object_parser import (
    PENDING_STATUS,
    ParsedObject,
    parse_object,
    service_of,
)
from server.adapters.kserve.objects import Object, rollout_of
from server.deadline import Deadline
from server.domain.errors import ConcurrentWrite
from server.domain.rollout.status import InferenceServiceStatus
from server.domain.service.inference_service import InferenceService, ServiceKey

Outcome = TypeVar("Outcome")

TRIES = 5
PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class CurrentObject:
    """The object under a key, or None. `live`: it was just read, and is not from the cache."""

    parsed: ParsedObject | None
    live: bool


class StaleObject(Exception):
    """The command was planned on an object that is not, or may not be, the current one."""


class ConflictRetry:
    """Retries commands on conflict. Commands on one service wait for each other.

    So each is planned on the object that the one before it stored, and callers of one service do
    not use up each other's tries.
    """

    def __init__(self, client: ServiceClient, feed: StatusFeed) -> None:
        self._client = client
        self._feed = feed
        # A lock lives as long as a command holds it or waits for it.
        self._locks: WeakValueDictionary[ServiceKey, asyncio.Lock] = WeakValueDictionary()

    async def run(
        self,
        key: ServiceKey,
        deadline: Deadline,
        attempt: Callable[[CurrentObject], Awaitable[Outcome]],
    ) -> Outcome:
        """Try on the cached object; while that raises StaleObject, TRIES times on the live one.

        Raises ConcurrentWrite if other writers took all the tries or all the time, and
        ClusterUnavailable at once if the API server is known to be away.
        """
        self._require_reachable()
        async with self._turn(key, deadline):
            self._require_reachable()
            with suppress(StaleObject):
                return await attempt(CurrentObject(self._feed.object_cache.parsed(key), live=False))
            for nth in range(TRIES):
                obj = await self._client.get(key, deadline)
                with suppress(StaleObject):
                    parsed = parse_object(obj) if obj else None
                    return await attempt(CurrentObject(parsed, live=True))
                # KServe writes the status of a young service many times in a moment.
                await asyncio.sleep(random.uniform(0, PAUSE * 2**nth))  # noqa: S311
        raise _concurrent_write(key)

    @asynccontextmanager
    async def _turn(self, key: ServiceKey, deadline: Deadline) -> AsyncIterator[None]:
        """Hold the service's lock, first come, first served."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with asyncio.timeout(deadline.left(LEAST_TIME)):
                await lock.acquire()
        except TimeoutError:
            raise _concurrent_write(key) from None
        try:
            yield
        finally:
            lock.release()

    def _require_reachable(self) -> None:
        if not self._feed.reachable():
            raise unavailable(self._feed.away())


def service_after_write(
    feed: StatusFeed, written: Object, otherwise: InferenceServiceStatus = PENDING_STATUS
) -> InferenceService:
    """Let the feed take the API server's answer, and return the service as the feed has it.

    With the status `otherwise` if the feed has another rollout of it.
    """
    service = feed.put_written(written)
    if service is not None and service.rollout == rollout_of(written):
        return service
    return service_of(written, otherwise)


def _concurrent_write(key: ServiceKey) -> ConcurrentWrite:
    return ConcurrentWrite(f"other clients keep writing {key}; nothing was written; try again")
