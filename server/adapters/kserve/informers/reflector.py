"""List a collection, then watch it, for ever. After any failure the cache catches up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Protocol

import msgspec
import structlog

from server.adapters.bounded_read import chunks_at_most
from server.adapters.kserve.client import (
    LARGEST_ANSWER,
    AnswerTooLarge,
    ApiServer,
    Unanswered,
    Unreachable,
)
from server.adapters.kserve.informers.collections import Resource, serves
from server.adapters.kserve.informers.held_fields import hold, hold_parsed
from server.adapters.kserve.informers.progress import Progress
from server.adapters.kserve.informers.watch_stream import (
    Backoff,
    Expired,
    Lines,
    ListReader,
    PageMetadata,
    Refused,
    WatchEvent,
    admit_answer,
    read_event,
)
from server.adapters.kserve.objects import Object

# A collection of more bytes is listed in pages. They take the API server four times as long: it
# reads them from etcd, not from its cache.
LARGEST_WHOLE = 2**26
PAGE_SIZE = "500"
# Bytes of objects, some 15 ms.
READ_AT_ONCE = 2**19
LIST_TIMEOUT = 30.0
# A new collection of the cluster is found within this time. A Deploy that needs it looks at once.
LOOK_AGAIN_AFTER = 15.0
# An API server that has just started refuses collections that it will serve in a moment.
REFUSED_FOR_GOOD_AFTER = 10.0
WATCH_SECONDS = (240, 300)
# The API server sends a bookmark about once a minute: a watch that is silent for longer is dead.
IDLE_TIMEOUT = 90.0

log = structlog.get_logger(__name__)


class Sink(Protocol):
    """The cache that a reflector fills. Each call is a whole change: no method may await."""

    def listing_begins(self) -> int:
        """Return a token for now; a list that is requested later is newer than it."""
        ...

    def listed(self, resource: Resource, objects: Sequence[Object], began: int) -> None:
        """Store a whole collection. Cached objects that are not in it are deleted."""
        ...

    def absent(self, resource: Resource) -> None:
        """Note that the collection is missing, or may not be read."""
        ...

    def needs_list(self, resource: Resource) -> bool:
        """Return whether a new list is needed although the watch is open."""
        ...

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        """Apply a change, in the order of the stream."""
        ...


class Reflector:
    """Keep a sink up to date with a collection of the API server.

    `synced` is set once the first list is stored. `current_at`: the last monotonic time whose state
    the sink is known to have. An optional collection that is missing counts as empty, and is looked
    for again and again. `progress`: how far the sink has the collection.
    """

    def __init__(self, api: ApiServer, resource: Resource, sink: Sink) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        self.current_at = 0.0
        self.progress = Progress()
        self._api = api
        self._sink = sink
        self._relist = True
        self._resume_from = ""
        self._in_pages = False
        self._connected_since: float | None = None
        self._watched_at = float("-inf")
        self._round: asyncio.Timeout | None = None
        self._trouble = ""
        self._refused: tuple[int, float] | None = None

    def refused(self) -> int | None:
        """Return the HTTP status if the first list has been refused for a while, else None."""
        if self._refused is None or self.synced.is_set():
            return None
        status, since = self._refused
        return status if time.monotonic() - since > REFUSED_FOR_GOOD_AFTER else None

    async def run(self) -> None:
        """List and watch until cancelled. Only a bug raises."""
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(None) as self._round:
                    await self._rest(backoff, await self._attempt())
            except TimeoutError:
                continue  # cut short by reconnect

    def reconnect(self) -> None:
        """Open a new connection now: after an outage the old one may be dead unnoticed."""
        if self._round and not self._round.expired():
            self._round.reschedule(asyncio.get_running_loop().time())

    def confirm(self, moment: float) -> None:
        """Note that the API server answered a request sent at `moment`: an open watch has sent
        every change until then."""
        if self._connected_since is not None and self._connected_since <= moment:
            self.current_at = moment
            if self._sink.needs_list(self.resource):
                self._relist = True
                self.reconnect()

    async def _attempt(self) -> tuple[float, Exception | None]:
        """List if needed, then watch until the stream ends. Return its seconds, and its error."""
        ended_by: Exception | None = None
        try:
            if self._relist:
                if not await self._is_served():
                    return await self._wait_for_it()
                await self._list_in_parts_if_large()
            await self._watch()
        except Expired:
            self._relist = True
        except (Refused, Unreachable, Unanswered) as e:
            ended_by = e
            self._note_refusal(e)
            if self.resource.optional and isinstance(e, Refused):
                self._relist = True  # the collection may be gone
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
        """Return whether the cluster has the collection.

        A list would not show it: without the right to read, a missing collection is forbidden too.
        """
        if self.resource.always_served:
            return True
        group = await self._api.send("GET", self.resource.group_path, timeout=LIST_TIMEOUT)
        return serves(group, self.resource.kind)

    def _was_readable(self) -> bool:
        """Return whether a watch was open lately: an API server that has just started has not
        loaded the rights yet."""
        return time.monotonic() - self._watched_at < LOOK_AGAIN_AFTER

    async def _wait_for_it(self) -> tuple[float, None]:
        """Wait before the next look. Until then the collection counts as empty."""
        self._sink.absent(self.resource)
        self.progress = Progress(absent=True)
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

    async def _list_in_parts_if_large(self) -> None:
        """List at once, and in pages from the first time that this is too large or too slow."""
        try:
            await self._list()
        except AnswerTooLarge:
            if self._in_pages:
                raise
            self._in_pages = True
            await self._list()
        except Unanswered as e:
            # Each page has LIST_TIMEOUT of its own. A connection that broke shows nothing.
            if isinstance(e.__cause__, TimeoutError):
                self._in_pages = True
            raise

    async def _list(self) -> None:
        began, asked_at = self._sink.listing_begins(), time.monotonic()
        objects: list[Object] = []
        token = ""
        while True:
            async with self._api.lists:
                listed = await self._list_page(token, objects)
            token = listed.next_page
            if not token:
                break
        self._sink.listed(self.resource, objects, began)
        self._resume_from = listed.resource_version
        self.progress = self.progress.listed(self._resume_from, objects)
        self._relist = False
        self.current_at = asked_at
        self.synced.set()

    async def _list_page(self, token: str, objects: list[Object]) -> PageMetadata:
        """Read a page, the first one without a token, and add its objects."""
        query = dict(self.resource.selector)
        if self._in_pages:
            query["limit"] = PAGE_SIZE
        if token:
            query["continue"] = token
        most = LARGEST_ANSWER if self._in_pages else LARGEST_WHOLE
        reader = ListReader(partial(hold, self.resource.kind))
        since = 0
        async with self._api.open_answer(
            self.resource.path, query, accept=self.resource.accept, timeout=LIST_TIMEOUT
        ) as response:
            admit_answer(response.status, response.headers)
            async for chunk in chunks_at_most(response, most):
                for found, size in reader.feed(chunk):
                    objects.append(found)
                    since += size
                    if since > READ_AT_ONCE:
                        since = 0
                        await asyncio.sleep(0)
        page = reader.end()
        objects += await self._hold(page.items or ())
        return page.metadata

    async def _hold(self, items: Sequence[msgspec.Raw]) -> list[Object]:
        """Read the other objects of a page. Other tasks have the event loop in between."""
        held: list[Object] = []
        since = 0
        for item in items:
            text = memoryview(item)
            try:
                held.append(hold(self.resource.kind, text))
            except (ValueError, RecursionError):
                raise Refused(0) from None
            since += len(text)
            if since > READ_AT_ONCE:
                since = 0
                await asyncio.sleep(0)
        return held

    async def _watch(self) -> None:
        query = {
            **dict(self.resource.selector),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._resume_from,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311 (jitter)
        }
        path, accept = self.resource.path, self.resource.accept_watch
        async with self._api.open_stream(
            path, query, idle_timeout=IDLE_TIMEOUT, accept=accept
        ) as response:
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
            try:
                found = hold_parsed(self.resource.kind, event.object, stays_parsed=True)
            except (ValueError, RecursionError):
                raise Refused(0) from None
            self._sink.changed(self.resource, replace(event, object=found))
        self._resume_from = event.resource_version
        self.progress = self.progress.read(event)

    def _note(self, trouble: str, cause: str = "") -> None:
        """Log a problem once, with its first cause, and once when it is over."""
        if trouble and trouble != self._trouble:
            log.warning("watch interrupted", resource=str(self.resource), why=trouble + cause)
        elif self._trouble and not trouble:
            log.info("watch restored", resource=str(self.resource))
        self._trouble = trouble
