"""Reading the log of a container that failed: what of it is worth showing, and what it says.

Model servers mostly write Python's tracebacks, and after the cause they log how they shut down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

MOST_LINES = 20
MOST_BYTES = 4096
# Of a line that names the cause, and of what follows it, so that they leave room for others.
MOST_OF_CAUSE = 1024
# The lines right after the cause often go on with it, before a stack of the libraries below Python;
# how a server shut down, at the end, says little.
MOST_AFTER_CAUSE = 8
MOST_OF_END = 2

# The kubelet answers so, as if it were the log, where it has none.
_NO_LOG = ("unable to retrieve container logs for ", "failed to try resolving symlinks in path ")
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = '  File "'
_RAISED = re.compile(r"([A-Za-z_][\w.]*)(:|$)")
# How Python ends what was going on when a server stops.
_ENDINGS = ("CancelledError", "KeyboardInterrupt", "SystemExit")
_COMPLAINT = re.compile(r"\b(ERROR|CRITICAL|FATAL|panic)\b|^[\w.]*(Error|Exception)\b")
_INFORMATION = re.compile(r"\b(INFO|DEBUG)\b")
_MODEL = re.compile(r"\bmodels?\b(?! server)", re.IGNORECASE)
# Words of one clause: "0 failed; loading the model" says nothing.
_GAP = r"(?:(?![,;]|\.\s)\W)+"
_LOAD_FAILED = re.compile(
    r"\b(could not|couldn't|cannot|can't|unable to"
    r"|(?<!\b0 )(?<!\bno )(fail(s|ed|ure)?( to)?|error|exception))"
    rf"{_GAP}(\w+{_GAP}){{0,3}}(load|loading|be loaded)\b"
    rf"|\b(load|loading)\b{_GAP}(\w+{_GAP}){{0,3}}(?<!\b0 )fail(s|ed|ure)\b"
    r"(?=\s+(to|with|for|because|due|after)\b|\s*([^\w\s]|$))",
    re.IGNORECASE,
)
# A server that goes on without: a cache, say.
_MILD = re.compile(r"\b(DEBUG|WARN|WARNING)\b", re.IGNORECASE)


def plain_lines(text: str) -> list[str]:
    """The lines that say something, without spaces at their ends."""
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(_NO_LOG)]


def telling(lines: Sequence[str]) -> tuple[str, ...]:
    """At most MOST_LINES and MOST_BYTES: what led to the cause, the line that names it, what
    follows that line, the end.

    Of a traceback only the innermost frame is shown. Where no line names a cause, these are the
    last lines.
    """
    short = list(_without_outer_frames(lines))
    at = _cause_at(short)
    if at is None:
        return _last_that_fit(short[-MOST_LINES:], MOST_BYTES)
    cause, after = _shortened(short[at]), short[at + 1 :]
    following = _first_that_fit(after[:MOST_AFTER_CAUSE], MOST_OF_CAUSE)
    end = after[len(following) :][-MOST_OF_END:]
    shown = (cause, *following, *_last_that_fit(end, MOST_BYTES - _size((cause, *following))))
    before = short[:at][len(shown) - MOST_LINES :]
    if not tells_failed_load((*before, *shown)):
        told = [_shortened(line) for line in short[:at] if _is_failed_load(line)]
        before = [*told[-1:], *before[len(told[-1:]) :]]
    return (*_last_that_fit(before, MOST_BYTES - _size(shown)), *shown)


def cause(lines: Sequence[str]) -> str:
    """The line that names the cause, shortened; empty where none does."""
    at = _cause_at(lines)
    return "" if at is None else _shortened(lines[at])


def without_shutdown(lines: Sequence[str]) -> list[str]:
    """The lines, but for what is only informed of after the cause."""
    at = _cause_at(lines)
    if at is None:
        return list(lines)
    after = (line for line in lines[at + 1 :] if not _INFORMATION.search(line))
    return [*lines[: at + 1], *after]


def tells_failed_load(lines: Iterable[str]) -> bool:
    """Whether a line says that a model could not be loaded."""
    return any(map(_is_failed_load, lines))


def _is_failed_load(line: str) -> bool:
    failed = _LOAD_FAILED.search(line)
    return bool(failed and _MODEL.search(line) and not _MILD.search(line[: failed.start()]))


def _cause_at(lines: Sequence[str]) -> int | None:
    """Where the last exception is named, or else the last complaint."""
    numbered = list(enumerate(lines))
    raised = [n for (_, before), (n, line) in pairwise(numbered) if _ends_traceback(before, line)]
    complaints = raised or [n for n, line in numbered if _COMPLAINT.search(line)]
    return complaints[-1] if complaints else None


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) for line in lines)


def _shortened(cause: str) -> str:
    return cause.encode()[:MOST_OF_CAUSE].decode(errors="ignore")


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
    """Without the marks below the code that point at a part of it."""
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
            # Of one endless line the beginning says most; where there are others, they do.
            kept += [] if kept else [line.encode()[:room].decode(errors="ignore")]
            break
        kept.append(line)
        room -= size
    return tuple(reversed(kept))
