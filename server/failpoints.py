"""Failpoints: named places in the code at which tests end the process. Unarmed, they do nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Literal

Name = Literal[
    "before-record",
    "after-record",
    "before-write",
    "before-rename",
    "after-write",
    "during-removal",
    "before-outcome",
    "before-answer",
    "before-revision",
    "after-revision",
    "before-revision-outcome",
]


def kill() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


_armed: dict[Name, Callable[[], None]] = {}


def arm(name: Name, action: Callable[[], None] = kill) -> None:
    """Run `action` each time that the failpoint is reached."""
    _armed[name] = action


def disarm(name: Name) -> None:
    """Let the failpoint do nothing again."""
    _armed.pop(name, None)


def reached(name: Name) -> None:
    """Mark a failpoint in the code."""
    if action := _armed.get(name):
        action()
