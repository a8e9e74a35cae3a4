"""Frees and returns memory without holding the event loop for long."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable

EVERY_SECONDS = 5.0
# Of all CPU time: a collection that takes 300 ms is not followed by another for 15 s.
COLLECTING_SHARE = 0.02
# The generations of what is young are collected as ever.
_NEVER = 10**9


async def keep_returning() -> None:
    """Collect garbage and return free memory to the system every few seconds, until cancelled.

    By itself CPython looks at all objects again whenever their number has grown by a quarter:
    while 10,000 watches come, the event loop is held ten times, for up to half a second. Here that
    is done once in a while, and never for what the server is made of itself.

    glibc keeps the memory of what was allocated side by side: after 20,000 calls at once a server
    would stay at four times its size, and the next such moment would come on top of it. Where the C
    library is another one, nothing is returned.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    gc.freeze()
    trim, took = _malloc_trim(), 0.0
    while True:
        await asyncio.sleep(max(EVERY_SECONDS, took / COLLECTING_SHARE))
        began = time.thread_time()
        gc.collect()
        took = time.thread_time() - began
        if trim:
            # Without the interpreter's lock: it takes some 20 ms where there is much to return.
            await asyncio.to_thread(trim, 0)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
