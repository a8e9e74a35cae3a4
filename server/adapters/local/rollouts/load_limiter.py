"""Limits how many model servers load at once to the number of CPUs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta


class LoadSlot:
    """The right to load a model, until it is released."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._held = True

    def release(self) -> None:
        """Let the next load begin. A second call does nothing."""
        if self._held:
            self._held = False
            self._semaphore.release()


class LoadLimiter:
    """Gives out slots in the order of the requests for them."""

    def __init__(self, slots: int, longest: timedelta) -> None:
        self._semaphore = asyncio.Semaphore(slots)
        self._longest = longest

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[LoadSlot]:
        """Hold a slot for the length of a block, or for the longest time if that is over sooner."""
        await self._semaphore.acquire()
        slot = LoadSlot(self._semaphore)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._longest.total_seconds(), slot.release)
        try:
            yield slot
        finally:
            timer.cancel()
            slot.release()


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
