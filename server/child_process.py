"""Start child processes, and wait for their ends.

Those of uvloop are no way: they run Python's fork hooks in the child, of all libraries that have
some, and one child in twenty then ended with SIGSEGV (https://github.com/MagicStack/uvloop/issues/749).
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


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
        threading.Thread(target=self._reap, name=f"wait for {self.pid}", daemon=True).start()

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
