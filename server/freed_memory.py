"""Returns memory that was freed to the system."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

EVERY_SECONDS = 5.0


async def keep_returning() -> None:
    """Return what is free again to the system every few seconds, until cancelled.

    glibc keeps the memory of what was allocated side by side: after 20,000 calls at once a server
    would stay at four times its size, and the next such moment would come on top of it. Where the C
    library is another one, nothing is done.
    """
    if (trim := _malloc_trim()) is None:
        return
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        # Without the interpreter's lock: it takes some 20 ms where there is much to return.
        await asyncio.to_thread(trim, 0)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
