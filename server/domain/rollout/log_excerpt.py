"""Excerpt the log of a failed container: find the line with the cause, and the lines to show.

Model servers mostly write Python's tracebacks, and log their shutdown after the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

MOST_LINES = 20
MOST_BYTES = 4096
# Bytes of the cause line, and of the lines after it, so that they leave room for others.
MOST_OF_CAUSE = 1024
# The lines right after the cause often continue it, before a stack of native libraries; the
# shutdown at the end says little.
MOST_AFTER_CAUSE = 8
MOST_OF_END = 2

# The kubelet returns these in place of a log that it does not have.
_NO_LOG = ("unable to retrieve container logs for ", "failed to try resolving symlinks in path ")
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = '  File "'
_RAISED = re.compile(r"([A-Za-z_][\w.]*)(:|$)")
# Exceptions of a normal stop.
_ENDINGS = ("CancelledError", "KeyboardInterrupt", "SystemExit")
_ERROR_LINE = re.compile(r"\b(ERROR|CRITICAL|FATAL|panic)\b|^[\w.]*(Error|Exception)\b")
_INFORMATION = re.compile(r"\b(INFO|DEBUG)\b")
_MODEL = re.compile(r"\bmodels?\b(?! server)", re.IGNORECASE)
# Words of one clause: "0 failed; loading the model" is no failure.
_GAP = r"(?:(?![,;]|\.\s)\W)+"
_LOAD_FAILED = re.compile(
    r"\b(could not|couldn't|cannot|can't|unable to"
    r"|(?<!\b0 )(?<!\bno )(fail(s|ed|ure)?( to)?|error|exception))"
    rf"{_GAP}(\w+{_GAP}){{0,3}}(load|loading|be loaded)\b"
    rf"|\b(load|loading)\b{_GAP}(\w+{_GAP}){{0,3}}(?<!\b0 )fail(s|ed|ure)\b"
    r"(?=\s+(to|with|for|because|due|after)\b|\s*([^\w\s]|$))",
    re.IGNORECASE,
)
# The server goes on, without a cache for example.
_MILD = re.compile(r"\b(DEBUG|WARN|WARNING)\b", re.IGNORECASE)


def plain_lines(text: str) -> list[str]:
    """Return the non-empty lines, without trailing spaces."""
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(_NO_LOG)]


def excerpt_of(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the lines to show: those before the cause, the cause line, those after it, the end.

    At most MOST_LINES and MOST_BYTES. A traceback is reduced to its innermost frame. Without a
    cause line these are the last lines.
    """
    short = list(_without_outer_frames(lines))
    at = _cause_at(short)
    if at is None:
        return _last_that_fit(short[-MOST_LINES:], MOST_BYTES)
    cause, after = _shortened(short[at]), short[at + 1 :]
    following = _first_that_fit(after[:MOST_AFTER_CAUSE], MOST_OF_CAUSE)
    end = after[len(following) :][-MOST_OF_END:]
    shown = (
        cause,
        *following,
        *_last_that_fit(end, MOST_BYTES - _size((cause, *following))),
    )
    before = short[:at][len(shown) - MOST_LINES :]
    if not reports_failed_load((*before, *shown)):
        failed = [_shortened(line) for line in short[:at] if _is_failed_load(line)][-1:]
        before = [*failed, *before[len(failed) :]]
    return (*_last_that_fit(before, MOST_BYTES - _size(shown)), *shown)


def cause_line(lines: Sequence[str]) -> str:
    """Return the line with the cause, shortened; empty if there is none."""
    at = _cause_at(lines)
    return "" if at is None else _shortened(lines[at])


def without_shutdown(lines: Sequence[str]) -> list[str]:
    """Return the lines without mere information after the cause."""
    at = _cause_at(lines)
    if at is None:
        return list(lines)
    after = (line for line in lines[at + 1 :] if not _INFORMATION.search(line))
    return [*lines[: at + 1], *after]


def reports_failed_load(lines: Iterable[str]) -> bool:
    """Report whether a line says that a model could not be loaded."""
    return any(map(_is_failed_load, lines))


def _is_failed_load(line: str) -> bool:
    failed = _LOAD_FAILED.search(line)
    return bool(failed and _MODEL.search(line) and not _MILD.search(line[: failed.start()]))


def _cause_at(lines: Sequence[str]) -> int | None:
    """Return the index of the last exception, or else of the last error line."""
    numbered = list(enumerate(lines))
    raised = [n for (_, before), (n, line) in pairwise(numbered) if _ends_traceback(before, line)]
    error_lines = raised or [n for n, line in numbered if _ERROR_LINE.search(line)]
    return error_lines[-1] if error_lines else None


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) for line in lines)


def _shortened(cause_line: str) -> str:
    return cause_line.encode()[:MOST_OF_CAUSE].decode(errors="ignore")


def _without_outer_frames(lines: Sequence[str]) -> Iterable[str]:
    frames: list[str] | None = None
    for line in lines:
        if frames is not None and line.startswith(" "):
            frames = [line] if line.startswith(_FRAME) else [*frames, line]
            continue
        yield from _unmarked(frames or [])
        frames = [] if line.endswith(_TRACEBACK) else None
        yield line
    yield from _unmarked(frames or [])


def _unmarked(frames: Sequence[str]) -> list[str]:
    """Return the lines without the marks that point at a part of the code."""
    return [line for line in frames if line.strip(" ^~")]


def _ends_traceback(before: str, line: str) -> bool:
    raised = before.startswith("    ") and _RAISED.match(line)
    return bool(raised and not raised[1].endswith(_ENDINGS))


def _first_that_fit(lines: Sequence[str], room: int) -> Sequence[str]:
    sizes = accumulate(len(line.encode()) for line in lines)
    return lines[: sum(size <= room for size in sizes)]


def _last_that_fit(lines: Sequence[str], room: int) -> tuple[str, ...]:
    kept: list[str] = []
    for line in reversed(lines):
        size = len(line.encode())
        if size > room:
            # A single endless line is cut; with other lines it is left out.
            kept += [] if kept else [line.encode()[:room].decode(errors="ignore")]
            break
        kept.append(line)
        room -= size
    return tuple(reversed(kept))
