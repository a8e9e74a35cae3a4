"""Writes audit records to a file, a pipe or standard output, in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from server.ports import AUDIT_SECONDS

log = structlog.get_logger(__name__)

# Of records that are not stored yet.
MOST_WAITING = 1000
# How long a pipe may take nothing, and how soon a sink that fails is tried again.
_RETRY_SECONDS = 1.0


class AuditUnusable(Exception):
    """The sink cannot be opened; the message is for operators."""


class _Waiting(NamedTuple):
    stored: asyncio.Future[None]
    since: float


class AuditFile:
    """Stores audit records, in order; implements `server.ports.AuditSink`.

    A record is stored once it is on the disk, or in the hands of the pipe's reader. While the sink
    takes none, the records that were `put` wait, and are stored once it does again.
    """

    def __init__(self, path: Path | None) -> None:
        """`path` None: standard output."""
        self._stream = _Stream(path)
        self._loop = asyncio.get_running_loop()
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting: deque[_Waiting] = deque()
        self._failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit records", daemon=True)

    def available(self) -> bool:
        """See `server.ports.AuditSink`."""
        if self._failing or len(self._waiting) >= MOST_WAITING:
            return False
        return not self._waiting or time.monotonic() - self._waiting[0].since < AUDIT_SECONDS

    def put(self, line: bytes) -> asyncio.Future[None]:
        """See `server.ports.AuditSink`."""
        stored = self._loop.create_future()
        self._waiting.append(_Waiting(stored, time.monotonic()))
        self._lines.put(line)
        return stored

    async def start(self) -> None:
        """Open the sink and begin to write; see `opened_audit_file`."""
        try:
            await asyncio.to_thread(self._stream.check)
        except OSError as e:
            raise AuditUnusable(
                f"must be a file or a pipe that this server may write, or - for standard output:"
                f" {self._stream.why(e)}"
            ) from None
        self._thread.start()

    async def close(self) -> None:
        """Write the records that wait, for AUDIT_SECONDS at most."""
        self._closing.set()
        self._lines.put(None)
        await asyncio.to_thread(self._thread.join, AUDIT_SECONDS)
        # Let the loop hear of the last ones.
        await asyncio.sleep(0)
        if self._waiting:
            log.error("audit records lost", records=len(self._waiting))

    def _run(self) -> None:
        lines: list[bytes] = []
        while not self._closing.is_set() or lines or not self._lines.empty():
            lines.extend(self._next(block=not lines))
            stored, problem = self._stream.store(lines)
            del lines[:stored]
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._note, stored, problem)
            if problem:
                if self._closing.is_set():
                    break
                self._closing.wait(_RETRY_SECONDS)
        self._stream.close()

    def _next(self, *, block: bool) -> Sequence[bytes]:
        """Return the lines that have come; with `block` wait for one."""
        found = [self._lines.get()] if block else []
        with suppress(queue.Empty):
            while True:
                found.append(self._lines.get_nowait())
        return [line for line in found if line is not None]

    def _note(self, stored: int, problem: OSError | None) -> None:
        for _ in range(stored):
            waiting = self._waiting.popleft().stored
            if not waiting.done():
                waiting.set_result(None)
        if problem and not self._failing:
            why = self._stream.why(problem)
            log.error("audit records cannot be written: writes are refused", why=why)
        elif self._failing and not problem:
            log.info("audit records are written again")
        self._failing = problem is not None


class _Stream:
    """The file, pipe or terminal. Only the thread uses it."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._regular = False
        # The last line is not whole.
        self._torn = False
        self._poll = select.poll()

    def store(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Return how many lines are stored, and why it is not all of them."""
        written, problem = 0, None
        try:
            descriptor = self._opened()
            for line in lines:
                self._write(descriptor, line)
                written += 1
        except OSError as e:
            problem = e
        try:
            if written and self._regular and self._descriptor is not None:
                os.fdatasync(self._descriptor)
        except OSError as e:
            written, problem = 0, e
        if problem:
            self.close()
        return written, problem

    def _opened(self) -> int:
        """Return the descriptor; of a new file, if another program has moved the one before."""
        if self._descriptor is not None and self._moved(self._descriptor):
            self.close()
        if self._descriptor is None:
            self._descriptor = self._open()
            self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)
        return self._descriptor

    def _open(self) -> int:
        if self._path is None:
            return sys.__stdout__.fileno() if sys.__stdout__ else 1
        # Without blocking: nobody may read a pipe. A file is not affected.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        self._torn = _ends_within_a_line(self._path)
        return os.open(self._path, flags, 0o600)

    def _moved(self, descriptor: int) -> bool:
        if self._path is None:
            return False
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return True

    def _write(self, descriptor: int, line: bytes) -> None:
        whole = b"\n" + line if self._torn else line
        # A pipe that can be written takes a whole record, which has PIPE_BUF bytes at most.
        if not self._regular and not self._poll.poll(_RETRY_SECONDS * 1000):
            raise OSError(errno.EAGAIN, "nobody reads it")
        taken = os.write(descriptor, whole)
        self._torn = 0 < taken < len(whole)
        if taken < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close it; standard output stays open."""
        if self._descriptor is not None and self._path is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def check(self) -> None:
        """Open it. Raises OSError, but not for a pipe without a reader."""
        try:
            self._opened()
        except OSError as e:
            if not self._unread(e):
                raise

    def why(self, error: OSError) -> str:
        """Return the path, and why it cannot be written."""
        if self._unread(error):
            return f"nobody reads the pipe {self._path}"
        where = "standard output" if self._path is None else self._path
        return f"{where}: {error.strerror or type(error).__name__}"

    def _unread(self, error: OSError) -> bool:
        """Report whether a pipe has no reader. A socket cannot be opened with the same error."""
        return error.errno == errno.ENXIO and self._path is not None and self._path.is_fifo()


def _ends_within_a_line(path: Path) -> bool:
    """Report whether a file's last line was cut off, as a full disk or a crash leaves it."""
    if not (path.is_file() and path.stat().st_size):
        return False
    with suppress(PermissionError), path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
    return False


@asynccontextmanager
async def opened_audit_file(path: Path | None) -> AsyncIterator[AuditFile]:
    """Open a file or pipe, or without a path standard output, for the length of a block.

    Raises AuditUnusable, but not for a pipe that nobody reads yet.
    """
    file = AuditFile(path)
    await file.start()
    try:
        yield file
    finally:
        await file.close()
