"""A model server: started, its words kept, ended with all that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import structlog

from server.adapters.local.processes import exec_wrapper

KEPT_BYTES = 2**16
# For the wrapper to end what the command started.
CLEANUP_SECONDS = 5.0

log = structlog.get_logger(__name__)


class ModelProcess:
    """One run of a model server. `start` it; whoever starts it calls `end`, however it went."""

    def __init__(self, process: asyncio.subprocess.Process, words: _Words) -> None:
        self._process = process
        self._words = words
        self._exit = asyncio.create_task(self._ended(), name=f"exit of {process.pid}")

    @classmethod
    async def start(
        cls, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> ModelProcess:
        """Start the command in a folder. On Linux it and all that it starts die with this thread.

        Raises OSError where nothing more can be started.
        """
        words = _Words()
        reading, writing = os.pipe()
        try:
            # A pipe of our own: what the command leaves behind may keep it open, and the wait for
            # the command's end must not wait for that.
            await words.read_from(reading)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", exec_wrapper.__file__, str(os.getpid())),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd=folder,
                env=_of_wrapper(environment),
                start_new_session=True,
            )
        except BaseException:
            words.close()
            raise
        finally:
            os.close(writing)
        return cls(process, words)

    @property
    def pid(self) -> int:
        """The process id, which is the group's too."""
        return self._process.pid

    async def exited(self) -> int:
        """Wait for the exit; the code, as a shell tells it (above 128: a signal)."""
        code = await asyncio.shield(self._exit)
        return code if code >= 0 else 128 - code

    async def exited_within(self, seconds: float) -> int | None:
        """The exit's code; None where it still runs after so long."""
        await asyncio.wait({self._exit}, timeout=seconds)
        return await self.exited() if self._exit.done() else None

    async def end(self, grace: timedelta) -> None:
        """Ask it to end, and after `grace` make it; on Linux nothing that it started is left,
        elsewhere nothing of its group."""
        try:
            if not self._exit.done():
                self._signal(signal.SIGTERM)
                await self.exited_within(grace.total_seconds())
        finally:
            if not self._exit.done():
                self._kill()
            # Killed, it takes no time worth naming, and must be reaped in any case.
            await self.exited()
            self._words.close()

    async def last_words(self) -> str:
        """The end of what it has written so far; of a process that exited, all of its end."""
        await self._words.settled()
        return self._words.text()

    async def _ended(self) -> int:
        code = await self._process.wait()
        # At once: the id is free from now on, and another group could get it.
        self._signal(signal.SIGKILL)
        return code

    def _kill(self) -> None:
        if sys.platform != "linux":
            self._signal(signal.SIGKILL)
            return
        # The wrapper kills the rest, also what has left its group, and must not be killed before.
        exec_wrapper.ask_to_end(self._process.pid)
        late = asyncio.get_running_loop().call_later(CLEANUP_SECONDS, self._kill_wrapper)
        self._exit.add_done_callback(lambda _: late.cancel())

    def _kill_wrapper(self) -> None:
        log.warning("killed a wrapper that did not end; its daemons may live on", pid=self.pid)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _of_wrapper(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with the mark of a wrapper; the command itself gets its own."""
    marked = dict(environment)
    if owner := marked.pop(exec_wrapper.MARKER, ""):
        marked[exec_wrapper.WRAPPER_MARKER] = owner
    return marked


class _Words(asyncio.Protocol):
    """The last KEPT_BYTES that came through a pipe."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._transport: asyncio.BaseTransport | None = None
        self._ended = asyncio.Event()

    async def read_from(self, descriptor: int) -> None:
        pipe = os.fdopen(descriptor, "rb", 0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: self, pipe)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()

    async def settled(self) -> None:
        """Until the pipe ends, which what the command left behind may keep open: a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await self._ended.wait()

    def text(self) -> str:
        return self._kept[-KEPT_BYTES:].decode(errors="replace")

    def close(self) -> None:
        if self._transport:
            self._transport.close()
