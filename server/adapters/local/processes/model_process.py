"""The process of a model server, with its descendants and the end of its output."""

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
from server.child_process import ChildProcess, OutputPipe

KEPT_BYTES = 2**16
# The time that the wrapper has to end the descendants.
CLEANUP_SECONDS = 5.0

log = structlog.get_logger(__name__)


class ModelProcess:
    """The process of one run. Every `start` is followed by `end`."""

    def __init__(self, process: ChildProcess, output: _OutputTail) -> None:
        self._process = process
        self._output = output
        self._exit = asyncio.create_task(self._ended(), name=f"exit of {process.pid}")

    @classmethod
    def start(
        cls, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> ModelProcess:
        """Start a command in a folder. On Linux it and its descendants die with this thread.

        Raises OSError if no process can be started.
        """
        output = _OutputTail()
        try:
            wrapper = (sys.executable, "-I", "-S", exec_wrapper.__file__, str(os.getpid()))
            process = ChildProcess(
                [*wrapper, *command],
                stdout=output.pipe.child_end,
                stderr=output.pipe.child_end,
                folder=folder,
                environment=_of_wrapper(environment),
                own_session=True,
            )
        except BaseException:
            output.pipe.close()
            raise
        finally:
            os.close(output.pipe.child_end)
        return cls(process, output)

    @property
    def pid(self) -> int:
        """The process id, which is the process group's too."""
        return self._process.pid

    async def exited(self) -> int:
        """Wait for the exit, and return its code as a shell does: above 128 for a signal."""
        code = await asyncio.shield(self._exit)
        return code if code >= 0 else 128 - code

    async def exited_within(self, seconds: float) -> int | None:
        """Wait for the exit for so long, and return its code; None if the process still runs."""
        await asyncio.wait({self._exit}, timeout=seconds)
        return await self.exited() if self._exit.done() else None

    async def end(self, grace: timedelta) -> None:
        """Send SIGTERM, and SIGKILL after `grace`. On Linux no descendant is left, elsewhere no
        member of its process group."""
        try:
            if not self._exit.done():
                self._signal(signal.SIGTERM)
                await self.exited_within(grace.total_seconds())
        finally:
            if not self._exit.done():
                self._kill()
            # A killed process ends in no time, and must be reaped.
            await self.exited()
            self._output.pipe.close()

    async def last_output(self) -> str:
        """Return the end of its output so far; after its exit, the end of all its output."""
        await self._output.settled()
        return self._output.text()

    async def _ended(self) -> int:
        code = await self._process.wait()
        # At once: the id is free now, and another process group could get it.
        self._signal(signal.SIGKILL)
        return code

    def _kill(self) -> None:
        if sys.platform != "linux":
            self._signal(signal.SIGKILL)
            return
        # The wrapper kills its descendants, also those outside of its group; only then may it end.
        exec_wrapper.ask_to_end(self._process.pid)
        late = asyncio.get_running_loop().call_later(CLEANUP_SECONDS, self._kill_wrapper)
        self._exit.add_done_callback(lambda _: late.cancel())

    def _kill_wrapper(self) -> None:
        log.warning("killed a wrapper that did not end; its daemons may still run", pid=self.pid)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _of_wrapper(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the owner as that of a wrapper; the command gets its own."""
    marked = dict(environment)
    if owner := marked.pop(exec_wrapper.CHILD_OWNER, ""):
        marked[exec_wrapper.WRAPPER_OWNER] = owner
    return marked


class _OutputTail:
    """Keeps the last KEPT_BYTES of a pipe. Raises OSError if none can be opened."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._ended = asyncio.Event()
        self.pipe = OutputPipe(self._keep, self._ended.set)

    async def settled(self) -> None:
        """Wait a moment for the end of the pipe, which descendants may keep open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await self._ended.wait()

    def text(self) -> str:
        return self._kept[-KEPT_BYTES:].decode(errors="replace")

    def _keep(self, part: bytes) -> None:
        self._kept += part
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]
