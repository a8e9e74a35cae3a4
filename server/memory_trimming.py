"""Frees what only the garbage collector can, and returns free memory to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress

from server.control.watch_cache import WatchCache

EVERY_SECONDS = 5.0
# Of the objects that were there after the last collection: so many times more or fewer.
_CHANGED = 1.5
# The generations of what is young are collected as ever.
_NEVER = 10**9


async def keep_freeing(cache: WatchCache) -> None:
    """Collect garbage and return free memory to the system where there is some, until cancelled.

    By itself CPython looks at all objects again whenever their number has grown by a quarter: while
    10,000 watches come, that is ten times. Here it is done where their number has become half as
    large again, or a third smaller, since the last time: never where nothing grows. What the server
    is made of itself and what it has listed first is never looked at. Of what came later, the
    objects of 1,000 services hold the event loop for up to 80 ms. Young garbage is freed as ever.

    glibc keeps the memory of what was allocated side by side: after 20,000 calls at once a server
    would stay at four times its size, and the next such moment would come on top of it. Where the C
    library is another one, nothing is returned.
    """
    young, middle, oldest = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    try:
        gc.freeze()
        await _free(cache)
    finally:
        gc.set_threshold(young, middle, oldest)
        gc.unfreeze()


async def _free(cache: WatchCache) -> None:
    trim, listed, before = _malloc_trim(), False, sys.getallocatedblocks()
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        now = sys.getallocatedblocks()
        if cache.synced and not listed:
            listed, before = True, now
            gc.freeze()
        elif max(now, before) > _CHANGED * min(now, before):
            gc.collect()
            before = sys.getallocatedblocks()
        if trim:
            # Without the interpreter's lock: it takes some 20 ms where there is much to return.
            # Where no thread can be started just now, it is returned the next time.
            with suppress(RuntimeError):
                await asyncio.to_thread(trim, 0)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
