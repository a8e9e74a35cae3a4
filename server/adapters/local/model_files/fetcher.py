"""Fetching model files off the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from server.adapters.local.model_files.download import Abandoned, Progress, download
from server.adapters.local.model_files.model_sources import FetchFailed
from server.adapters.local.model_files.size_limits import AS_SHIPPED, SizeLimits

__all__ = ["FetchFailed", "Progress", "SizeLimits", "fetch"]

TELL_EVERY_SECONDS = 0.25

Tell = Callable[[Progress], None]


async def fetch(
    uri: str,
    into: Path,
    tell: Tell = lambda progress: None,
    limits: SizeLimits = AS_SHIPPED,
) -> Path:
    """Bring the file or folder at `uri` into the folder `into`, and answer its path there.

    `into` comes to be when all of it is there. If it exists already the source is not even looked
    at: whoever keeps one for each generation has the same bytes in it for good. `tell` is called in
    this event loop, four times a second at most. Raises FetchFailed. Once cancelled, the thread
    that copies ends at its next chunk, and removes what it has so far.
    """
    outcome: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
    waiting = _Waiting(outcome, tell)

    def run() -> None:
        try:
            waiting.in_loop(outcome.set_result, download(uri, into, waiting.went_on, limits))
        except FetchFailed as e:
            waiting.in_loop(outcome.set_exception, e)
        except Abandoned:
            pass

    # No thread of a pool: the end of the process would wait for one that reads from a dead disk.
    threading.Thread(target=run, name=f"fetching {uri}", daemon=True).start()
    try:
        return await outcome
    finally:
        waiting.over.set()


class _Waiting:
    """Who waits for a download, as its thread sees them."""

    def __init__(self, outcome: asyncio.Future[Path], tell: Tell) -> None:
        self.over = threading.Event()
        self._outcome = outcome
        self._tell = tell
        self._told_at = 0.0

    def went_on(self, progress: Progress | None) -> None:
        """Tell it now and then. Raises Abandoned where nobody waits any longer."""
        if self.over.is_set():
            raise Abandoned
        if progress and time.monotonic() - self._told_at >= TELL_EVERY_SECONDS:
            self._told_at = time.monotonic()
            self.in_loop(self._tell, progress)

    def in_loop(self, act: Callable[..., object], argument: object) -> None:
        """Act in the event loop, unless nobody waits there by then."""

        def acted() -> None:
            if not self._outcome.done():
                act(argument)

        with suppress(RuntimeError):  # the loop is closed
            self._outcome.get_loop().call_soon_threadsafe(acted)
