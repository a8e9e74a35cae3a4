"""Hand out the services whose revisions are due, each to one worker at a time."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Iterable

from server.adapters.kserve.revisions.retry_pauses import RetryPauses
from server.domain.service.inference_service import ServiceKey


class WorkQueue:
    """Services in the order in which they are due; none comes before its pause ends.

    As in client-go's workqueue, a service that is added while a worker has it comes again once that
    worker is `done`.
    """

    def __init__(self, pauses: RetryPauses) -> None:
        self._pauses = pauses
        self._due: OrderedDict[ServiceKey, None] = OrderedDict()
        self._backlog: list[ServiceKey] = []
        self._timers: dict[ServiceKey, asyncio.TimerHandle] = {}
        self._in_work: set[ServiceKey] = set()
        self._changed = asyncio.Event()
        # By the clock of the event loop; nothing is handed out before.
        self._stands_still_until = 0.0

    def add(self, key: ServiceKey) -> None:
        """Let a service be due now."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._due[key] = None
        self._changed.set()

    def add_after(self, key: ServiceKey, seconds: float) -> None:
        """Let a service be due after so many seconds and its pause, unless it is due earlier."""
        loop = asyncio.get_running_loop()
        seconds = max(seconds, self._pauses.left(key))
        if timer := self._timers.get(key):
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def add_backlog(self, keys: Iterable[ServiceKey]) -> None:
        """Let these services be due when no other one is, in place of the backlog before.

        Their order is random, so that replicas share them.
        """
        self._backlog = [*keys]
        random.shuffle(self._backlog)
        self._changed.set()

    def discard(self, key: ServiceKey) -> None:
        """Drop a service."""
        self._due.pop(key, None)
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def stand_still(self, seconds: float) -> None:
        """Hand out nothing for so many seconds."""
        until = asyncio.get_running_loop().time() + seconds
        self._stands_still_until = max(self._stands_still_until, until)

    async def get(self) -> ServiceKey:
        """Wait for a service that is due. It is not handed out again until it is `done`."""
        loop = asyncio.get_running_loop()
        while True:
            if (left := self._stands_still_until - loop.time()) > 0:
                await asyncio.sleep(left)
                continue
            key = self._next()
            if key is None:
                self._changed.clear()
                await self._changed.wait()
            elif self._pauses.left(key):
                self.add_after(key, 0)
                # All services of a namespace can be paused.
                await asyncio.sleep(0)
            else:
                self._in_work.add(key)
                return key

    def done(self, key: ServiceKey) -> None:
        """Take a service back that was handed out."""
        self._in_work.discard(key)
        if key in self._due:
            self._changed.set()

    def stop(self) -> None:
        """Cancel all timers."""
        while self._timers:
            self._timers.popitem()[1].cancel()

    def _next(self) -> ServiceKey | None:
        key = self._first_idle()
        while key is None and self._backlog:
            self._due[self._backlog.pop()] = None
            key = self._first_idle()
        if key is not None:
            del self._due[key]
        return key

    def _first_idle(self) -> ServiceKey | None:
        """Return the first service that is due and that no worker has."""
        return next((key for key in self._due if key not in self._in_work), None)
