"""Carry out a command on exactly the object that it was planned on, or plan it again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from server.adapters.kserve.apply.api_server_errors import unavailable
from server.adapters.kserve.apply.service_objects import LEAST_TIME, ServiceObjects
from server.adapters.kserve.apply.write_queue import others_write
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.manifests.object_parser import (
    PENDING_STATUS,
    ParsedObject,
    key_of,
    parse_object,
    service_of,
)
from server.adapters.kserve.objects import Object, rollout_of
from server.deadline import Deadline
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


async def retry_on_conflict(
    attempt: Callable[[CurrentObject], Awaitable[Outcome]],
    key: ServiceKey,
    feed: StatusFeed,
    objects: ServiceObjects,
    deadline: Deadline,
) -> Outcome:
    """Try on the cached object; while that raises StaleObject, up to TRIES times on the live one.

    Writes of one service wait for each other in this process. Raises ConcurrentWrite if others
    took all the tries or all the time, and ClusterUnavailable at once if the API server is known
    to be away.
    """
    if not feed.reachable():
        raise unavailable(feed.away())
    async with objects.queue.turn(key, deadline.left(LEAST_TIME)):
        if not feed.reachable():
            raise unavailable(feed.away())
        with suppress(StaleObject):
            return await attempt(CurrentObject(feed.parsed(key), live=False))
        for nth in range(TRIES):
            with suppress(StaleObject):
                obj = await objects.get(key, deadline)
                return await attempt(CurrentObject(parse_object(obj) if obj else None, live=True))
            # KServe writes the status of a young service many times in a moment.
            await asyncio.sleep(random.uniform(0, PAUSE * 2**nth))  # noqa: S311
    raise others_write(key)


def service_after_write(
    feed: StatusFeed, written: Object, otherwise: InferenceServiceStatus = PENDING_STATUS
) -> InferenceService:
    """Let the feed take the API server's answer, and return the service as the feed has it.

    With the status `otherwise` if the feed has another rollout of it.
    """
    feed.mirror.put_written(written)
    service = feed.derive(key_of(written))
    if service is not None and service.rollout == rollout_of(written):
        return service
    return service_of(written, otherwise)
