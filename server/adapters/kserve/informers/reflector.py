"""List, then watch one collection, for ever: whatever breaks, the copy catches up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

import structlog

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.collections import Resource, serves
from server.adapters.kserve.informers.watch_stream import (
    Backoff,
    Expired,
    Lines,
    Refused,
    WatchEvent,
    admit_answer,
    read_event,
    read_page,
)

PAGE_SIZE = "500"
LIST_TIMEOUT = 30.0
# How soon a collection that the cluster has got is noticed; who deploys has it looked for at once.
LOOK_AGAIN_AFTER = 15.0
# An API server that has just started refuses what it will serve in a moment.
REFUSED_FOR_GOOD_AFTER = 10.0
WATCH_SECONDS = (240, 300)
# The API server sends a bookmark about each minute: a watch that is silent for longer is dead.
IDLE_TIMEOUT = 90.0

log = structlog.get_logger(__name__)


class Sink(Protocol):
    """Where the copy is kept. Nothing in it may await: each call is a whole change."""

    def listing_begins(self) -> int:
        """A token for the moment that a list cannot be older than."""
        ...

    def listed(self, resource: Resource, objects: Sequence[dict[str, Any]], began: int) -> None:
        """Take all that there is of a resource; what is held beyond that is gone."""
        ...

    def absent(self, resource: Resource) -> None:
        """Take that there is no such collection, or none that may be read."""
        ...

    def in_doubt(self, resource: Resource) -> bool:
        """Whether a new list is needed although the watch goes on."""
        ...

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        """Take one change, in the order of the stream."""
        ...


class Reflector:
    """Keeps a sink at what one collection of the API server holds.

    `synced` is set when the first list has been taken. `current_at`: the last moment, by the
    monotonic clock, whose state the sink is known to hold. An optional collection that is absent
    is looked for again and again, and holds nothing until it is there.
    """

    def __init__(self, api: ApiServer, resource: Resource, sink: Sink) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        self.current_at = 0.0
        self._api = api
        self._sink = sink
        self._relist = True
        self._resume_from = ""
        self._connected_since: float | None = None
        self._watched_at = float("-inf")
        self._round: asyncio.Timeout | None = None
        self._trouble = ""
        self._refused: tuple[int, float] | None = None

    def refused(self) -> int | None:
        """The status by which the first list has been refused for a while; None where it is not."""
        if self._refused is None or self.synced.is_set():
            return None
        status, since = self._refused
        return status if time.monotonic() - since > REFUSED_FOR_GOOD_AFTER else None

    async def run(self) -> None:
        """Follow the collection until cancelled; only a bug ends it otherwise."""
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(None) as self._round:
                    await self._rest(backoff, await self._attempt())
            except TimeoutError:
                continue  # cut short by reconnect

    def reconnect(self) -> None:
        """Open a new connection now: after an outage an old one may be dead and not know it."""
        if self._round and not self._round.expired():
            self._round.reschedule(asyncio.get_running_loop().time())

    def vouch(self, moment: float) -> None:
        """Hear that the API server answered what it was asked at `moment`: an open watch would have
        told what happened until then."""
        if self._connected_since is not None and self._connected_since <= moment:
            self.current_at = moment
            if self._sink.in_doubt(self.resource):
                self._relist = True
                self.reconnect()

    async def _attempt(self) -> tuple[float, Exception | None]:
        """Catch up and watch until the stream ends: how long it lived, and what ended it."""
        ended_by: Exception | None = None
        try:
            if self._relist:
                if not await self._is_served():
                    return await self._wait_for_it()
                await self._list()
            await self._watch()
        except Expired:
            self._relist = True
        except (Refused, Unreachable, Unanswered) as e:
            ended_by = e
            self._note_refusal(e)
            if self.resource.optional and isinstance(e, Refused):
                self._relist = True  # it may be gone
                if e.status == HTTPStatus.FORBIDDEN and not self._was_readable():
                    self._note("it may not be read")
                    return await self._wait_for_it()
        finally:
            since, self._connected_since = self._connected_since, None
        return (time.monotonic() - since if since else 0.0), ended_by

    def _note_refusal(self, ended_by: Exception) -> None:
        status = ended_by.status if isinstance(ended_by, Refused) else 0
        if status not in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            self._refused = None
        elif self._refused is None or self._refused[0] != status:
            self._refused = status, time.monotonic()

    async def _is_served(self) -> bool:
        """Whether the cluster has the collection.

        A list does not tell: where no rule allows it, what is not there may not be read either.
        """
        if not self.resource.optional:
            return True
        group = await self._api.send("GET", self.resource.group_path, timeout=LIST_TIMEOUT)
        return serves(group, self.resource.kind)

    def _was_readable(self) -> bool:
        """Lately: an API server that has just started knows of no rights yet."""
        return time.monotonic() - self._watched_at < LOOK_AGAIN_AFTER

    async def _wait_for_it(self) -> tuple[float, None]:
        """Hold nothing for a while; for that long it counts as known that there is nothing."""
        self._sink.absent(self.resource)
        self._connected_since = self.current_at = time.monotonic()
        self.synced.set()
        await asyncio.sleep(LOOK_AGAIN_AFTER)
        return LOOK_AGAIN_AFTER, None

    async def _rest(self, backoff: Backoff, ended: tuple[float, Exception | None]) -> None:
        lived, why = ended
        if why:
            if isinstance(why, Refused):
                self._note(str(why))
            else:
                self._note("connection lost", f": {why}")
        retry_after = why.retry_after if isinstance(why, Refused) else 0.0
        await asyncio.sleep(backoff.pause(lived, retry_after))

    async def _list(self) -> None:
        began, asked_at = self._sink.listing_begins(), time.monotonic()
        objects: list[dict[str, Any]] = []
        query = {**dict(self.resource.selector), "limit": PAGE_SIZE}
        while True:
            answer = await self._api.send(
                "GET", self.resource.path, query=query, timeout=LIST_TIMEOUT
            )
            admit_answer(answer.status, answer.headers)
            items, metadata = read_page(answer.body)
            objects += items
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        self._sink.listed(self.resource, objects, began)
        self._resume_from = metadata["resourceVersion"]
        self._relist = False
        self.current_at = asked_at
        self.synced.set()

    async def _watch(self) -> None:
        query = {
            **dict(self.resource.selector),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._resume_from,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311 (jitter)
        }
        path = self.resource.path
        async with self._api.open_stream(path, query, idle_timeout=IDLE_TIMEOUT) as response:
            admit_answer(response.status, response.headers)
            self._connected_since = time.monotonic()
            self._note("")
            lines = Lines()
            try:
                async for chunk in response.content.iter_any():
                    for line in lines.feed(chunk):
                        self._take(read_event(line))
            finally:
                self._watched_at = time.monotonic()

    def _take(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK":
            self._sink.changed(self.resource, event)
        self._resume_from = event.resource_version

    def _note(self, trouble: str, cause: str = "") -> None:
        """Log what is wrong once, with its first cause, and once that it is over."""
        if trouble and trouble != self._trouble:
            log.warning("watch interrupted", resource=str(self.resource), why=trouble + cause)
        elif self._trouble and not trouble:
            log.info("watch restored", resource=str(self.resource))
        self._trouble = trouble
