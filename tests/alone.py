"""The application over a cluster in memory as a process of its own: `python -m tests.alone`.

Settings come from the environment, where MODELSERVICE_DATABASE_URL gives it a registry. A Deploy of
the name `bug` meets a bug whose text has everything that was asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120.0
ROOT = Path(__file__).parents[1]


class Alone:
    """The process, and what it has logged."""

    def __init__(self, program: str, environment: dict[str, str], stdout: Any = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", program],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=clean_environment() | {"MODELSERVICE_LISTEN": "127.0.0.1:0"} | environment,
        )
        self.lines: list[str] = []
        # A pipe that nobody reads would hold it up once it is full.
        self._reading = threading.Thread(target=self._read, name="log of a server", daemon=True)
        self._reading.start()
        self.address = self._first("listening")["address"]

    def stop(self) -> int:
        """SIGTERM; the exit code, once everything that it logged is read."""
        self.process.send_signal(signal.SIGTERM)
        return self.join()

    def join(self) -> int:
        self.process.wait(PATIENCE_SECONDS)
        self._reading.join(PATIENCE_SECONDS)
        return self.process.returncode

    def events(self, name: str) -> list[dict[str, Any]]:
        """The logged events of a name, in order. gRPC's own lines are none."""
        logged = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [event for event in logged if event["event"] == name]

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def _first(self, name: str) -> dict[str, Any]:
        ends = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.events(name)):
            assert self._reading.is_alive(), f"the server ended: {self.lines}"
            assert time.monotonic() < ends, f"the server never logged {name!r}: {self.lines}"
            time.sleep(0.01)
        return found[0]


def clean_environment() -> dict[str, str]:
    """This environment without any setting of a server, and with the stubs in reach."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MODELSERVICE_", "KUBE", "KSERVE_"))
    }
    return kept | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'generated'}"}


@contextmanager
def alone(
    program: str = "tests.alone", /, *, stdout: Any = None, **environment: str
) -> Iterator[Alone]:
    """The process, or that of another program which logs alike, for the length of a block."""
    server = Alone(program, environment, stdout)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.join()
        server.process.stderr.close()


def main() -> None:
    from server import app, failpoints, logs, settings
    from server.domain.service.commands import Applied, Deploy
    from tests.memory_cluster.cluster import MemoryCluster

    class Cluster(MemoryCluster):
        async def apply(self, deploy: Deploy) -> Applied:
            if deploy.key.name == "bug":
                raise RuntimeError(f"cannot cope with {deploy}")
            return await super().apply(deploy)

    async def serve(loaded: settings.Settings) -> None:
        # Without a URL it would be in this user's own state directory.
        url = loaded.database.url.get_secret_value()
        async with (
            app.opened_registry(loaded) if url else nullcontext() as registry,
            app.opened_audit(loaded) as audit,
        ):
            tokens = await app.opened_token_file(loaded)
            application = app.Application(
                Cluster(), loaded, registry, identities=tokens, audit=audit
            )
            await app.serve(application)

    loaded = settings.load()
    logs.configure(loaded.log)
    if loaded.testing.crash_at:
        failpoints.arm(loaded.testing.crash_at)
    asyncio.run(serve(loaded))


if __name__ == "__main__":
    main()
