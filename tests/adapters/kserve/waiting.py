"""Waiting for what must come to be true, with a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], within: float) -> float:
    """Wait until the condition holds; the seconds that it took. Fails after `within` seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"still not so after {within} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began
