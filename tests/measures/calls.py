"""Record the calls of the server's own functions, in order."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

SERVER = Path(__file__).parents[2] / "server"
# These tasks run by the clock, without any request or event.
BY_THE_CLOCK = ("probe", "health", "freed memory", "KServe's release")
# The argument of the opcode RESUME at a function's beginning; others follow a yield or an await.
_BEGINS = 0


class Call(NamedTuple):
    """A called function, and its asyncio task."""

    task: str
    file: str
    function: str
    code: CodeType


class Walk(NamedTuple):
    """The calls of an idle server until it is idle again."""

    calls: list[Call]

    @property
    def files(self) -> set[str]:
        """Return the files of the called functions."""
        return {call.file for call in self.calls}

    @property
    def sequences(self) -> dict[str, list[tuple[str, list[str]]]]:
        """Return for each task its files in order, each with the functions called in a row."""
        tasks = dict.fromkeys(call.task for call in self.calls)
        return {task: self._runs(task) for task in tasks}

    @property
    def changes_of_file(self) -> int:
        """Count the calls that are in another file than the call before in their task."""
        return sum(len(runs) - 1 for runs in self.sequences.values())

    def _runs(self, task: str) -> list[tuple[str, list[str]]]:
        calls = (call for call in self.calls if call.task == task)
        return [(f, [c.function for c in run]) for f, run in groupby(calls, key=lambda c: c.file)]

    @property
    def by_folder(self) -> list[tuple[str, int]]:
        """Count the calls in each folder, the most first."""
        return Counter(str(Path(call.file).parent) for call in self.calls).most_common()

    def count(self, code: CodeType) -> int:
        """Count the calls of one function."""
        return sum(call.code is code for call in self.calls)

    def count_in(self, file: str) -> int:
        """Count the calls of the functions in one file."""
        return sum(call.file == file for call in self.calls)

    def split(self, task: str) -> tuple[Walk, Walk]:
        """Return the calls outside of one task, and the calls in it."""
        inside = [call for call in self.calls if call.task == task]
        return Walk([call for call in self.calls if call.task != task]), Walk(inside)


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Record the calls in this thread's event loop until the block ends, except those of this task.

    A call is one entry into a function or method of server/, a lambda included. Going on after an
    await or a yield is none, nor is a comprehension or a generator expression, which are read in
    their place, nor a method that dataclasses or NamedTuple have made.
    """
    calls: list[Call] = []
    recorder = asyncio.current_task()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(f"{SERVER}/"):
            return
        if code.co_name.startswith("<") and code.co_name != "<lambda>":
            return
        if code.co_code[frame.f_lasti + 1] & 3 != _BEGINS:
            return
        task = asyncio.current_task()
        name = task.get_name() if task else "callbacks of the event loop"
        if task is not recorder and name not in BY_THE_CLOCK:
            file = str(Path(code.co_filename).relative_to(SERVER))
            calls.append(Call(name, file, code.co_qualname, code))

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
