"""The events of a watch, taken one by one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from server.control.call import Call
from server.control.watch import Watcher
from server.control.watch_stream import Watch, WatchEvent
from server.domain.errors import ServiceError


class EventStream:
    """A reader of a watch, which goes on after an event only once the next one is asked for."""

    def __init__(self, watcher: Watcher, watch: Watch) -> None:
        self._watcher = watcher
        self._watch = watch
        self._events = asyncio.Queue[WatchEvent]()
        self._asked = asyncio.Semaphore(0)
        self._watching: asyncio.Task[None] | None = None

    async def next(self) -> WatchEvent:
        """Return the next event. Raises the error that ends the watch."""
        if self._watching is None:
            watching = self._watcher.watch(Call(), self._watch, self._send)
            self._watching = asyncio.create_task(watching)
        else:
            self._asked.release()
        event = asyncio.create_task(self._events.get())
        try:
            await asyncio.wait([event, self._watching], return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                self._watching.result()
            return await event
        finally:
            event.cancel()

    async def _send(self, event: WatchEvent) -> None:
        self._events.put_nowait(event)
        await self._asked.acquire()

    async def close(self) -> None:
        """Cut the watch."""
        if self._watching:
            self._watching.cancel()
            with suppress(asyncio.CancelledError, ServiceError):
                await self._watching
