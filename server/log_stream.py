"""The stream of the log. Lines may be written a little late, so that no call waits for them."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, TextIO

import structlog

Line = MutableMapping[str, Any]

LATE_SECONDS = 0.1
# Some 3 MiB. After a stall, a line that is not late makes the texts of all in the event loop.
MOST_LATE_LINES = 5_000
# At the end of the process, for a stream that takes no more.
_LAST_SECONDS = 1.0


class _LateLine(NamedTuple):
    time_ns: int
    event: str
    fields: Callable[[], Line]

    def made(self) -> Line:
        line = self.fields()
        line["event"], line["level"] = self.event, "info"
        line["timestamp"] = _timestamp(self.time_ns)
        return line


class LogStream:
    """Writes texts at once, and lines up to LATE_SECONDS late in a thread of its own.

    All are in the order in which they came. `render` makes the text of a late line. A process that
    is killed may lose the last ones. While `stream` takes no more, MOST_LATE_LINES wait; the number
    of those beyond is logged afterwards.
    """

    def __init__(self, stream: TextIO, render: Callable[[Line], str]) -> None:
        self._stream = stream
        self._render = render
        self._waiting: deque[_LateLine | str] = deque()
        # Two counts, because two threads change them.
        self._dropped = 0
        self._dropped_logged = 0
        self._wanted = threading.Event()
        # A garbage collection may log in any thread, also in the middle of a line. A thread that
        # logs must hold no other lock: two threads could wait for each other.
        self._writing = threading.RLock()
        self._in_a_write = False
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        """Write a text now, after the lines that wait. One that is logged in the middle of another
        is written right after it."""
        with self._writing:
            self._waiting.append(text)
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._writing:
            if self._in_a_write:
                return
            self._in_a_write = True
            try:
                while self._waiting:
                    self._stream.write("".join(self._texts()))
                    self._stream.flush()
            finally:
                self._in_a_write = False

    def write_late(self, event: str, fields: Callable[[], Line]) -> None:
        """Write a line soon. This waits for nothing; one thread calls it.

        `fields` is called when the line is written: a thread that makes many lines at a time is
        faster than the calls that they are about.
        """
        if len(self._waiting) >= MOST_LATE_LINES:
            self._dropped += 1
            return
        self._waiting.append(_LateLine(time.time_ns(), event, fields))
        if not self._wanted.is_set():
            self._wanted.set()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="late log lines", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads
            self._wanted.clear()
            self.flush()
        else:
            self._thread = thread
            atexit.register(self._end)

    def _run(self) -> None:
        while self._wanted.wait():
            time.sleep(LATE_SECONDS)
            self._wanted.clear()
            with suppress(OSError, ValueError):  # nobody reads the stream any more
                self.flush()

    def _end(self) -> None:
        if self._writing.acquire(timeout=_LAST_SECONDS):
            self._writing.release()
            with suppress(OSError, ValueError):
                self.flush()

    def _texts(self) -> list[str]:
        texts = [self._text(self._waiting.popleft()) for _ in range(len(self._waiting))]
        if dropped := self._dropped - self._dropped_logged:
            self._dropped_logged += dropped
            line: Line = {"lines": dropped, "event": "log lines dropped", "level": "warning"}
            texts.append(f"{self._render(line)}\n")
        return texts

    def _text(self, line: _LateLine | str) -> str:
        return line if isinstance(line, str) else f"{self._render(line.made())}\n"


_late: LogStream | None = None


def write_late_lines_to(stream: LogStream | None) -> None:
    """Set the stream of `write_late`. Without one its lines are logged like others."""
    global _late
    _late = stream


def write_late(
    logger: structlog.typing.FilteringBoundLogger, event: str, fields: Callable[[], Line]
) -> None:
    """Log at level info, up to LATE_SECONDS late. A process that is killed may lose the line.

    `logger` writes it where no line is late.
    """
    if _late is None:
        logger.info(event, **fields())
    else:
        _late.write_late(event, fields)


def with_time(logger: Any, method: str, event: Line) -> Line:
    """Add the time, as structlog's TimeStamper does, in a fraction of its time."""
    if "timestamp" not in event:  # else it is a late line
        event["timestamp"] = _timestamp(time.time_ns())
    return event


def _timestamp(time_ns: int) -> str:
    second, nanos = divmod(time_ns, 10**9)
    return f"{_to_second(second)}.{nanos // 1000:06}Z"


@lru_cache(maxsize=1)
def _to_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
