"""Reading the log of a container that failed: what of it is worth showing, and what it says.

Model servers mostly write Python's tracebacks, and after the cause they log how they shut down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

MOST_LINES = 20
MOST_BYTES = 4096
# Of a line that names the cause, so that it leaves room for others.
MOST_OF_CAUSE = 1024

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The kubelet answers so, as if it were the log, where it has none.
_NO_LOG = ("unable to retrieve container logs for ", "failed to try resolving symlinks in path ")
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = '  File "'
_COMPLAINT = re.compile(r"\b(ERROR|CRITICAL|FATAL|panic)\b|^[\w.]*(Error|Exception)\b")
_MODEL = re.compile(r"\bmodels?\b(?! server)", re.IGNORECASE)
_LOAD_FAILED = re.compile(
    r"\b(could not|couldn't|cannot|can't|unable to|fail(s|ed|ure)?( to)?|error|exception)\W+"
    r"(\w+\W+){0,3}(load|loading|be loaded)\b"
    r"|\b(load|loading)\b\W+(\w+\W+){0,4}fail",
    re.IGNORECASE,
)


def plain_lines(text: str) -> list[str]:
    """The lines that say something, without colours and spaces at their ends."""
    lines = (line.rstrip() for line in _COLOURS.sub("", text).splitlines())
    return [line for line in lines if line and not line.startswith(_NO_LOG)]


def telling(lines: Sequence[str]) -> tuple[str, ...]:
    """The last lines, at most MOST_LINES and MOST_BYTES, those that name the cause among them.

    Of a traceback only the innermost frame is shown.
    """
    short = list(_without_outer_frames(lines))
    last = _last_that_fit(short[-MOST_LINES:], MOST_BYTES)
    causes = [_shortened(cause) for cause in _causes(short) if cause not in last]
    room = MOST_BYTES - sum(len(cause.encode()) for cause in causes)
    return (*causes, *_last_that_fit(last[-(MOST_LINES - len(causes)) :], room))


def tells_failed_load(lines: Iterable[str]) -> bool:
    """Whether a line says that a model could not be loaded."""
    return any(map(_is_failed_load, lines))


def _is_failed_load(line: str) -> bool:
    return bool(_MODEL.search(line) and _LOAD_FAILED.search(line))


def _causes(lines: Sequence[str]) -> list[str]:
    """The last word on a model that was not loaded, and the last exception's or complaint."""
    last_load = next((line for line in reversed(lines) if _is_failed_load(line)), "")
    raised = [b for a, b in pairwise(lines) if _ends_traceback(a, b)]
    complaints = raised or [line for line in lines if _COMPLAINT.search(line)]
    return [line for line in dict.fromkeys((last_load, *complaints[-1:])) if line]


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
    return before.startswith("    ") and bool(re.match(r"[A-Za-z_][\w.]*(:|$)", line))


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
