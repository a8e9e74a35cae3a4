"""Runs of ci/deploy.sh in the shells of CI systems."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tests.patience import PATIENCE_SECONDS

SCRIPT = Path(__file__).parents[2] / "ci/deploy.sh"
# GitHub's and Tekton's way to run a step, and the strictest POSIX shell.
SHELLS = {"bash": ("bash", "-eo", "pipefail"), "dash": ("dash", "-eu")}
# All that the script needs beside grpcurl. There is no jq.
TOOLS = ("cat", "date", "grep", "mkfifo", "mktemp", "rm", "sed", "sleep")


class Run:
    """One run: its lines as they come. `name` is the shell's, for the names of services."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        request: str,
        path: Path,
        env: Any,
        folder: Path | None = None,
    ):
        self.name = name
        self.out: list[str] = []
        self.err: list[str] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={"PATH": str(path), "TMPDIR": str(path.parent), **env},
            start_new_session=True,
        )
        assert self.process.stdin
        with suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(request)
        self._readers = [
            threading.Thread(target=_read, args=(self.process.stdout, self.out)),
            threading.Thread(target=_read, args=(self.process.stderr, self.err)),
        ]
        for reader in self._readers:
            reader.start()

    def until(self, text: str, times: int = 1) -> None:
        """Wait until so many lines have the text."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while sum(text in line for line in [*self.out, *self.err]) < times:
            assert time.monotonic() < ends, f"no {text!r} in {self.out} {self.err}"
            assert self.process.poll() is None, f"it ended without {text!r}: {self.out} {self.err}"
            time.sleep(0.02)

    def interrupt(self) -> None:
        """As Ctrl-C does: everything in the foreground gets SIGINT."""
        os.killpg(self.process.pid, signal.SIGINT)

    def code(self) -> int:
        """The exit code, once it has ended and everything that it printed is read."""
        self.process.wait(PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
            # What it started would hold the pipes open.
            assert not reader.is_alive(), "it left a process behind"
        return self.process.returncode

    @property
    def errors(self) -> str:
        return "\n".join(self.err)

    @property
    def states(self) -> list[str]:
        """The states that it printed, in order, after the line about the Deploy."""
        return [line.split()[0] for line in self.out[1:]]


class Script:
    """Starts runs, with a PATH that has grpcurl and `TOOLS` alone."""

    def __init__(self, grpcurl: Path, folder: Path) -> None:
        self._path = folder / "bin"
        self._path.mkdir()
        (self._path / "grpcurl").symlink_to(grpcurl)
        for tool in TOOLS:
            self.with_tool(tool)
        self._runs: list[Run] = []

    def run(
        self,
        shell: str,
        address: str,
        request: dict[str, Any] | str,
        *options: str,
        grpcurl: Sequence[str] = (),
        **env: str,
    ) -> Run:
        text = request if isinstance(request, str) else json.dumps(request)
        program, *flags = SHELLS[shell]
        command = [str(shutil.which(program)), *flags, SCRIPT, *options, address, "-"]
        return self.start(shell, [*command, "--", "-plaintext", *grpcurl], text, **env)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        stdin: str = "",
        folder: Path | None = None,
        **env: str,
    ) -> Run:
        """Run a command that runs the script, in a folder."""
        run = Run(name, command, stdin, self._path, env, folder)
        self._runs.append(run)
        return run

    def with_tool(self, tool: str) -> None:
        """Add a program to the PATH."""
        (self._path / tool).symlink_to(str(shutil.which(tool)))

    def without(self, tool: str) -> None:
        """Remove a program from the PATH."""
        (self._path / tool).unlink()

    def close(self) -> None:
        for run in self._runs:
            if run.process.poll() is None:
                os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


@contextmanager
def deploy_script(grpcurl: Path, folder: Path) -> Iterator[Script]:
    script = Script(grpcurl, folder)
    try:
        yield script
    finally:
        script.close()


def _read(pipe: IO[str], lines: list[str]) -> None:
    with pipe:
        lines.extend(line.rstrip("\n") for line in iter(pipe.readline, ""))
