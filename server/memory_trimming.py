"""Runs the garbage collector, and returns free memory to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress

EVERY_SECONDS = 5.0
# The calls that are open have thousands of objects: CPython's 700 would have each of them examined
# again and again, a tenth of the time of a Get.
_YOUNG = 5_000
# After so many collections of young objects those of middle age are examined, at most 30,000.
_MIDDLE = 4
# For the oldest generation alone.
_NEVER = 10**9
# So many old objects are examined in a step, some 25 ms with the younger ones.
_MOST_OLD = 50_000
# After so many collections of middle age there are surely more, and they are not counted.
_MANY = 8


async def keep_freeing() -> None:
    """Collect garbage and return free memory to the system, until cancelled.

    CPython examines all objects each time their number has grown by a quarter. With 10,000 watches
    that holds the event loop for 0.3 s. So a mass of objects that live on, as after the first
    listing or a storm of watches, is frozen and never examined. It is freed by its reference
    counts: no open call, watch or service of ours is part of a cycle. gRPC leaves a small cycle for
    each call as it arrives, which the next collection of young objects frees. A connection to the
    API server ends as a cycle, as every transport of asyncio. One that was frozen keeps up to a few
    KiB, and what it had not read yet.

    glibc keeps freed memory: after 20,000 concurrent calls a server would stay at four times its
    size, and the next peak would come on top. With another C library nothing is returned.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)
    trim = _malloc_trim()
    try:
        gc.freeze()
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            _collect_old()
            if trim:
                # In a thread, without the interpreter's lock: it can take 20 ms. If no thread can
                # be started, it is tried again the next time.
                with suppress(RuntimeError):
                    await asyncio.to_thread(trim, 0)
    finally:
        # Frozen objects stay frozen: another server of this process would examine all of them.
        gc.set_threshold(*thresholds)


def _collect_old() -> None:
    """Collect old garbage, or freeze the old objects if they are too many to be examined."""
    *_, collections = gc.get_count()
    if not collections:
        return  # nothing has become old
    if collections > _MANY or len(gc.get_objects(generation=2)) > _MOST_OLD:
        gc.collect(1)
        gc.freeze()
    else:
        gc.collect()


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
