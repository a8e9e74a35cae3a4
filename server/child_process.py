"""Start child processes, read their output, and wait for their ends.

The processes and pipes of uvloop are not used. It runs Python's fork hooks in the child, of all
libraries that have some, and one child in twenty then ended with SIGSEGV
(https://github.com/MagicStack/uvloop/issues/749). It closes the descriptor of a pipe twice, the
second time maybe that of another file.
"""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_READ_BYTES = 2**16


class ChildProcess:
    """A process that was started. A thread of its own waits for its end, and reaps it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
    ) -> None:
        """Start a command without input; its outputs are file descriptors. Raises OSError."""
        self._process = subprocess.Popen(  # noqa: S603 - callers name what is run
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=environment,
            start_new_session=own_session,
        )
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        try:
            threading.Thread(target=self._reap, name=f"wait for {self.pid}", daemon=True).start()
        except RuntimeError as e:
            self._process.kill()
            self._process.wait()
            raise OSError(errno.EAGAIN, "no thread can be started to wait for its end") from e

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end, and return the exit code, negative for a signal."""
        return await asyncio.shield(self._code)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._process.kill()

    def _reap(self) -> None:
        code = self._process.wait()
        # The loop may be closed by now.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._code.set_result, code)


class OutputPipe:
    """A pipe for the output of child processes, which is read until its end or until `close`.

    `received` is called with each part of the output, `ended` once no process can write any more.
    `child_end` is the descriptor for the processes; this process closes it once they have it.
    """

    def __init__(self, received: Callable[[bytes], object], ended: Callable[[], object]) -> None:
        """Open the pipe. Raises OSError."""
        self._received, self._ended = received, ended
        self._loop = asyncio.get_running_loop()
        self._reading, self.child_end = os.pipe()
        self._open = True
        os.set_blocking(self._reading, False)
        try:
            self._loop.add_reader(self._reading, self._read)
        except OSError:
            os.close(self._reading)
            os.close(self.child_end)
            raise

    def close(self) -> None:
        """Read no more. Processes that write then get SIGPIPE."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._reading)
            os.close(self._reading)

    def _read(self) -> None:
        try:
            part = os.read(self._reading, _READ_BYTES)
        except BlockingIOError:
            return
        if part:
            self._received(part)
        else:
            self.close()
            self._ended()
