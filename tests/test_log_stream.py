"""A line may be written late, and no call waits for the log."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from server import log_stream
from server.log_stream import LogStream
from tests.alone import ROOT, clean_environment
from tests.patience import PATIENCE_SECONDS


class Stalling(io.StringIO):
    """A stream that takes nothing while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.reached = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.free.wait(PATIENCE_SECONDS)
        return super().write(text)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def lines_of_a_process(program: str, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def events(stream: io.StringIO) -> list[str]:
    return [line["event"] for line in lines(stream)]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As late as a test likes."""
    monkeypatch.setattr(log_stream, "LATE_SECONDS", PATIENCE_SECONDS)


def test_late_lines_are_before_the_line_that_came_after_them(late: None) -> None:
    written = io.StringIO()
    log = LogStream(written, json.dumps)
    log.write_late("read 1", dict)
    log.write_late("read 2", dict)
    assert events(written) == []
    log.write('{"event": "write"}\n')
    log.write_late("read 3", dict)
    log.flush()
    assert events(written) == ["read 1", "read 2", "write", "read 3"]


def test_a_late_line_is_written_although_nothing_comes_after_it() -> None:
    written = Stalling()
    LogStream(written, json.dumps).write_late("read", dict)
    assert written.reached.wait(PATIENCE_SECONDS)


def test_while_the_stream_stalls_nothing_waits_and_the_lines_beyond_the_bound_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_stream, "MOST_LATE_LINES", 3)
    monkeypatch.setattr(log_stream, "LATE_SECONDS", 0.0)
    written = Stalling()
    written.free.clear()
    log = LogStream(written, json.dumps)
    log.write_late("first", dict)
    # The thread has taken it, and hangs.
    assert written.reached.wait(PATIENCE_SECONDS)
    for n in range(10):
        log.write_late(f"read {n}", dict)
    written.free.set()
    log.write("")
    assert events(written) == ["first", "read 0", "read 1", "read 2", "log lines dropped"]
    assert lines(written)[-1]["lines"] == 7


def test_a_stream_that_nobody_reads_any_more_ends_no_call_and_not_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_stream, "LATE_SECONDS", 0.0)
    tried, broken = threading.Semaphore(0), io.StringIO()

    def fails(_: str) -> int:
        tried.release()
        raise BrokenPipeError

    monkeypatch.setattr(broken, "write", fails)
    log = LogStream(broken, json.dumps)
    for _ in range(2):
        log.write_late("read", dict)
        assert tried.acquire(timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("level", "logged"), [("info", ["a read", "a write", "the last read"]), ("warning", [])]
)
def test_at_the_end_of_the_process_every_line_is_written(level: str, logged: list[str]) -> None:
    read = lines_of_a_process(_PROGRAM, level)
    assert [line["event"] for line in read] == logged
    assert all(line["level"] == "info" and line["timestamp"] for line in read)


_PROGRAM = """
import sys, structlog
from server import log_stream, logs, settings
log_stream.LATE_SECONDS = 600.0
logs.configure(settings.Log(format="json", level=sys.argv[1]))
log = structlog.get_logger()
log_stream.write_late(log, "a read", lambda: {"n": 1})
log.info("a write")
log_stream.write_late(log, "the last read", lambda: {"n": 2})
"""


def test_a_line_that_is_logged_while_lines_are_rendered_loses_none(late: None) -> None:
    """As by a garbage collection, which may run in the middle of a line."""
    out = io.StringIO()

    def render(line: dict[str, Any]) -> str:
        if line["event"] == "first":
            stream.write("nested\n")
        return str(line["event"])

    stream = LogStream(out, render)
    for event in ("first", "second", "third"):
        stream.write_late(event, dict)
    stream.flush()
    assert out.getvalue().split() == ["first", "second", "third", "nested"]


def test_a_line_that_is_logged_while_the_stream_takes_another_is_written_after_it() -> None:
    class Raw(io.RawIOBase):
        taken = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if not self.taken:
                stream.write("nested\n")
            self.taken += bytes(data)
            return len(data)

    raw = Raw()
    stream = LogStream(io.TextIOWrapper(io.BufferedWriter(raw)), json.dumps)
    stream.write("first\n")
    assert raw.taken.split() == [b"first", b"nested"]


def test_a_library_that_logs_while_a_line_is_made_does_not_wait_for_another_library() -> None:
    """As asyncio logs an error that nobody retrieved, in a garbage collection."""
    first, *others = (line["event"] for line in lines_of_a_process(_TWO_LIBRARIES))
    assert first == "a read"
    assert sorted(others) == ["a library's message", "a lost error"]


_TWO_LIBRARIES = """
import logging, threading, structlog
from server import log_stream, logs, settings
logs.configure(settings.Log(format="json"))
formats, renders = threading.Event(), threading.Event()

class Message:
    def __str__(self):
        formats.set()
        renders.wait()
        return "a library's message"

def fields():
    renders.set()
    logging.getLogger("asyncio").error("a lost error")
    return {}

library = threading.Thread(target=logging.getLogger("library").error, args=[Message()])
library.start()
formats.wait()
log_stream.write_late(structlog.get_logger(), "a read", fields)
library.join()
"""


def test_a_line_of_the_server_that_is_logged_while_another_is_made_does_not_wait_for_it() -> None:
    logged = [line["event"] for line in lines_of_a_process(_LINE_IN_A_LINE)]
    assert logged == ["a read", "a write", "an error"]


_LINE_IN_A_LINE = """
import structlog
from server import log_stream, logs, settings
log_stream.LATE_SECONDS = 600.0
logs.configure(settings.Log(format="json"))
log = structlog.get_logger()

def fields():
    log.error("an error")
    return {}

log_stream.write_late(log, "a read", fields)
log.info("a write")
"""
