"""How long single steps of the server's event loop take, as the CPU time of their thread.

CPU time, since a busy machine makes every step long by the clock, and in the seconds of one machine
(see tests/cpu_time.py). Steps of the tests' own coroutines do not count: the fixtures of
pytest-asyncio run them in a loop as well.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from tests.cpu_time import slowness

TESTS = str(Path(__file__).parent)
# More than this keeps every other caller waiting for longer than a healthy network does.
LONGEST_SECONDS = 0.1
_SAMPLE_SECONDS = 0.02
_FRAMES = 12
# A step below this passes every bound on any machine, and is not worth the look at its speed.
_SHORT_SECONDS = 0.02
# A module is imported once in the life of a process.
_IMPORTING = "importlib._bootstrap"


@dataclass
class Step:
    """One callback of a loop, run to its end. `stack` is where it was seen, if it was."""

    seconds: float
    callback: str
    stack: str = ""

    def __str__(self) -> str:
        return f"{self.seconds * 1000:.0f} ms: {self.callback}\n{self.stack}"


class LoopSteps:
    """The longest step since `reset`, of all loops of this process while it is `installed`."""

    def __init__(self) -> None:
        self.longest = Step(0.0, "none")
        self._running: dict[int, tuple[float, str]] = {}  # by thread: when it began, where it was

    def reset(self) -> None:
        self.longest = Step(0.0, "none")

    @contextmanager
    def installed(self) -> Iterator[None]:
        original = asyncio.events.Handle._run
        collecting: dict[int, list[float]] = {}

        def collected(phase: str, _info: dict[str, int]) -> None:
            # A collection is due to what all before it made, not to the step that it falls into.
            times = collecting.setdefault(threading.get_ident(), [0.0, 0.0])
            if phase == "start":
                times[0] = time.thread_time()
            else:
                times[1] += time.thread_time() - times[0]

        def run(handle: Any) -> None:
            thread = threading.get_ident()
            times = collecting.setdefault(thread, [0.0, 0.0])
            before = times[1]
            self._running[thread] = (time.monotonic(), "")
            began = time.thread_time()
            callback = handle._callback
            try:
                original(handle)
            finally:
                seconds = time.thread_time() - began - (times[1] - before)
                _, stack = self._running.pop(thread, (0.0, ""))
                counts = not _of_a_test(callback) and _IMPORTING not in stack
                if counts and seconds > self.longest.seconds:
                    self._record(Step(seconds, _name(callback), stack))

        ended = threading.Event()
        # Opened before any test: some leave the process without descriptors.
        stacks = TemporaryFile()  # noqa: SIM115 the sampler reads it until the end
        sampler = threading.Thread(target=self._sample, args=(ended, stacks), daemon=True)
        gc.callbacks.append(collected)
        asyncio.events.Handle._run = run  # type: ignore[method-assign]
        sampler.start()
        try:
            yield
        finally:
            asyncio.events.Handle._run = original  # type: ignore[method-assign]
            gc.callbacks.remove(collected)
            ended.set()
            sampler.join()
            stacks.close()

    def _record(self, step: Step) -> None:
        if step.seconds > _SHORT_SECONDS:
            step.seconds /= slowness()
        if step.seconds > self.longest.seconds:
            self.longest = step

    def _sample(self, ended: threading.Event, stacks: IO[bytes]) -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            now = time.monotonic()
            for thread, (began, stack) in list(self._running.items()):
                if not stack and now - began > LONGEST_SECONDS / 2:
                    self._running[thread] = (began, _stack(thread, stacks))


def _stack(thread: int, file: IO[bytes]) -> str:
    """The innermost frames of a thread. By faulthandler: it makes no object of a frame that another
    thread runs, on which Python 3.11 crashes now and then."""
    file.seek(0)
    file.truncate()
    faulthandler.dump_traceback(file)
    file.seek(0)
    threads = file.read().decode(errors="replace").split("\n\n")
    # The newest is first; one that has ended can have had the same number.
    stack = next((text for text in threads if f"0x{thread:016x}" in text), "")
    return "\n".join(stack.splitlines()[1 : _FRAMES + 1])


def _of_a_test(callback: Any) -> bool:
    coroutine = _coroutine(callback)
    code = getattr(coroutine, "cr_code", None) or getattr(callback, "__code__", None)
    file = getattr(code, "co_filename", "")
    return file.startswith(TESTS) or "pytest_asyncio" in file


def _coroutine(callback: Any) -> Any:
    task = getattr(callback, "__self__", None)
    return task.get_coro() if isinstance(task, asyncio.Task) else None


def _name(callback: Any) -> str:
    coroutine = _coroutine(callback)
    return getattr(coroutine, "__qualname__", None) or repr(callback)[:200]
