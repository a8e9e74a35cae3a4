"""Fetches model files in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.adapters.local.model_files.download import DownloadCancelled, Progress, download
from server.adapters.local.model_files.model_sources import FetchFailed, shown
from server.adapters.local.model_files.size_limits import AS_SHIPPED, SizeLimits

__all__ = ["FetchFailed", "Progress", "SizeLimits", "fetch"]

PROGRESS_EVERY_SECONDS = 0.25

OnProgress = Callable[[Progress], None]


async def fetch(
    uri: str,
    into: Path,
    on_progress: OnProgress = lambda progress: None,
    limits: SizeLimits = AS_SHIPPED,
) -> Path:
    """Download the file or folder at `uri` into the folder `into`. Return its path there.

    `into` appears once it is whole, and never after a cancellation. If it exists, the source is not
    read: a generation keeps its bytes for good. `on_progress` is called in this event loop, at most
    four times a second. After a cancellation the thread ends at its next chunk, and removes its
    files. Raises FetchFailed.
    """
    outcome: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
    waiting = _Waiter(outcome, on_progress)

    def run() -> None:
        try:
            path = download(uri, into, waiting.on_progress, limits, waiting.wanted)
            waiting.in_loop(outcome.set_result, path)
        except FetchFailed as e:
            waiting.in_loop(outcome.set_exception, e)
        except DownloadCancelled:
            pass

    # Not from a pool: the end of the process would wait for a thread that reads from a dead disk.
    thread = threading.Thread(target=run, name=f"fetching {uri}", daemon=True)
    try:
        thread.start()
    except RuntimeError as e:
        raise FetchFailed(
            f"{shown(uri)} cannot be read: no thread can be started for it",
            "raise the limit of this machine or container for processes and threads",
        ) from e
    try:
        return await outcome
    finally:
        waiting.end()


class _Waiter:
    """The caller of a download, for use in its thread."""

    def __init__(self, outcome: asyncio.Future[Path], on_progress: OnProgress) -> None:
        self._over = False
        self._changing = threading.Lock()
        self._outcome = outcome
        self._on_progress = on_progress
        self._reported_at = 0.0

    def end(self) -> None:
        """Cancel the download, unless it has ended. Waits for a block of `wanted`."""
        with self._changing:
            self._over = True

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Put off a cancellation for a block. Raises DownloadCancelled if there was one."""
        with self._changing:
            if self._over:
                raise DownloadCancelled
            yield

    def on_progress(self, progress: Progress | None) -> None:
        """Report progress now and then. Raises DownloadCancelled if the caller was cancelled."""
        if self._over:
            raise DownloadCancelled
        if progress and time.monotonic() - self._reported_at >= PROGRESS_EVERY_SECONDS:
            self._reported_at = time.monotonic()
            self.in_loop(self._on_progress, progress)

    def in_loop(self, act: Callable[..., object], argument: object) -> None:
        """Act in the event loop, unless the caller was cancelled by then."""

        def acted() -> None:
            if not self._outcome.done():
                act(argument)

        with suppress(RuntimeError):  # the loop is closed
            self._outcome.get_loop().call_soon_threadsafe(acted)
