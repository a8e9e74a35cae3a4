"""Turns: as many model servers load at once as there are cores."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta


class Turn:
    """The right to load, until it is given back."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._held = True

    def give_back(self) -> None:
        """Let the next one begin; again is nothing."""
        if self._held:
            self._held = False
            self._semaphore.release()


class Turns:
    """Hands out turns in the order in which they are asked for."""

    def __init__(self, at_once: int, longest: timedelta) -> None:
        self._semaphore = asyncio.Semaphore(at_once)
        self._longest = longest

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """A turn for a block at most: whoever takes long does not keep all others waiting."""
        await self._semaphore.acquire()
        turn = Turn(self._semaphore)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._longest.total_seconds(), turn.give_back)
        try:
            yield turn
        finally:
            timer.cancel()
            turn.give_back()


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
