"""Writes of one service go one after the other in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from server.domain.errors import ConcurrentWrite
from server.domain.service.inference_service import ServiceKey


class WriteQueue:
    """Each write is planned on what the write before it stored, so that callers of one service do
    not use up one another's tries. Services do not wait for each other."""

    def __init__(self) -> None:
        # A lock is there for as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[ServiceKey, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, key: ServiceKey, seconds: float) -> AsyncIterator[None]:
        """Wait for the writes of this service that came before, first come, first served. Raises
        ConcurrentWrite after `seconds`."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with asyncio.timeout(seconds):
                await lock.acquire()
        except TimeoutError:
            raise others_write(key) from None
        try:
            yield
        finally:
            lock.release()


def others_write(key: ServiceKey) -> ConcurrentWrite:
    """What a caller gets whom other writers of the service left no turn."""
    return ConcurrentWrite(f"others keep writing {key}; nothing was written, try again")
