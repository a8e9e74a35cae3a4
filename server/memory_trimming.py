"""Runs the garbage collector, and returns free memory to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress

from server.control.watch_cache import WatchCache

EVERY_SECONDS = 5.0
# A collection starts once the number of objects has grown or shrunk by this factor.
_CHANGED = 1.5
# For the oldest generation alone.
_NEVER = 10**9
# The calls that are open have thousands of objects: CPython's 700 would have each of them examined
# again and again, a tenth of the time of a Get.
_YOUNG = 5_000


async def keep_freeing(cache: WatchCache) -> None:
    """Collect garbage and return free memory to the system, until cancelled.

    CPython examines all objects each time their number has grown by a quarter: ten times while
    10,000 watches arrive. This task does so once it has grown by half, or fallen by a third. It
    never examines the server's own objects and those of the first listing. The objects of 1,000
    later services hold the event loop for up to 80 ms. Young garbage is collected once there are
    some thousand objects of it.

    glibc keeps freed memory: after 20,000 concurrent calls a server would stay at four times its
    size, and the next peak would come on top. With another C library nothing is returned.
    """
    young, middle, oldest = gc.get_threshold()
    gc.set_threshold(_YOUNG, middle, _NEVER)
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
            # In a thread, without the interpreter's lock: it can take 20 ms. If no thread can be
            # started, it is tried again the next time.
            with suppress(RuntimeError):
                await asyncio.to_thread(trim, 0)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
