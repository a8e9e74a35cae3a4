"""A command is planned on one object and takes effect on exactly that one, or is planned anew."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from server.adapters.kserve.apply.api_server_errors import unavailable
from server.adapters.kserve.apply.service_objects import Allowance, ServiceObjects
from server.adapters.kserve.apply.write_queue import others_write
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.manifests.object_parser import UNJUDGED, key_of, service_of
from server.adapters.kserve.objects import rollout_of
from server.domain.rollout.status import InferenceServiceStatus
from server.domain.service.inference_service import InferenceService, ServiceKey

RawObject = Mapping[str, Any]
Outcome = TypeVar("Outcome")

TRIES = 5
PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Present:
    """The object under a key (None: absent). `live`: just read, rather than held by the feed."""

    obj: RawObject | None
    live: bool


class Stale(Exception):
    """What was planned rests on an object that is not, or may not be, the present one."""


async def attempted(
    attempt: Callable[[Present], Awaitable[Outcome]],
    key: ServiceKey,
    feed: StatusFeed,
    objects: ServiceObjects,
    allowance: Allowance,
) -> Outcome:
    """Attempt on what the feed holds, then, while that is Stale, up to TRIES times on what is live.

    Writes of one service in this process wait for each other. Raises ConcurrentWrite where others
    took all the tries, or all the time, and ClusterUnavailable at once where the API server is
    known to be away.
    """
    if not feed.reachable():
        raise unavailable(feed.away())
    async with objects.queue.turn(key, allowance.seconds()):
        if not feed.reachable():
            raise unavailable(feed.away())
        observed = feed.mirror.observed(key)
        with suppress(Stale):
            return await attempt(Present(observed.service if observed else None, live=False))
        for nth in range(TRIES):
            with suppress(Stale):
                return await attempt(Present(await objects.get(key, allowance), live=True))
            # KServe writes the status of a young service many times in a moment.
            await asyncio.sleep(random.uniform(0, PAUSE * 2**nth))  # noqa: S311
    raise others_write(key)


def derived(
    feed: StatusFeed, obj: RawObject, otherwise: InferenceServiceStatus = UNJUDGED
) -> InferenceService:
    """The service as the feed tells it, if that is about this very rollout."""
    service = feed.derive(key_of(obj))
    if service is not None and service.rollout == rollout_of(obj):
        return service
    return service_of(obj, otherwise)
