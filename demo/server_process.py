"""`python -m server` as a process beside the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from demo import ROOT, SERVING_PYTHON
from lab.port_blocks import own_block

_START_SECONDS = 30.0
STOP_SECONDS = 40.0


class ServerFailed(Exception):
    """The server did not start, or did not end as it should; the message has what it logged."""


class ServerProcess:
    """A server with a state of its own, on a free port."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server"], cwd=ROOT, env=_environment(folder), stderr=log
            )

    def address(self) -> str:
        """Where it listens, once it does. Raises ServerFailed."""
        ends = time.monotonic() + _START_SECONDS
        while time.monotonic() < ends and self._process.poll() is None:
            for line in self._log.read_text().splitlines():
                if '"event":"listening"' in line:
                    return str(json.loads(line)["address"])
            time.sleep(0.02)
        raise ServerFailed(f"the server does not listen: {self._last_words()}")

    def processes(self) -> list[psutil.Process]:
        """It, and what it started."""
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def stop(self) -> None:
        """End it as Ctrl-C does. Raises ServerFailed if it ended with an error."""
        self._process.terminate()
        if code := self._process.wait(STOP_SECONDS):
            raise ServerFailed(f"the server ended with exit code {code}: {self._last_words()}")

    def close(self) -> None:
        """End it whatever state it is in."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-10:])


@contextmanager
def server_process(folder: Path) -> Iterator[ServerProcess]:
    """A server for the length of a block, that keeps what it has to keep in a folder."""
    server = ServerProcess(folder)
    try:
        yield server
    finally:
        server.close()


def _environment(folder: Path) -> dict[str, str]:
    ours = ("MODELSERVICE_", "KSERVE_", "KUBERNETES_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "KSERVE_ENABLED": "false",
        "MODELSERVICE_LISTEN": "127.0.0.1:0",
        "MODELSERVICE_LOG_FORMAT": "json",
        "MODELSERVICE_SERVING_PORTS": own_block().setting,
        "MODELSERVICE_SERVING_PYTHON": str(SERVING_PYTHON),
        "MODELSERVICE_STATE_DIR": str(folder / "state"),
        "MODELSERVICE_STOP_DELAY": "0",  # nobody else calls it
    }
