"""A server on the local cluster that is killed and started again while programs wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lab.port_blocks import own_block
from tests.adapters.local.file_server import FileServer, file_server
from tests.adapters.local.server_process import kill, server

GOOD, BAD = "/good.json", "/bad.json"


class Outage:
    """A server that is running, and models on a file server that are being downloaded until the
    outage is over: the bad one's model server then exits with 3 before its model is ready."""

    def __init__(self, folder: Path, files: FileServer, stack: ExitStack) -> None:
        self.address = f"127.0.0.1:{own_block().next()}"
        self._folder = folder
        self._files = files
        self._stack = stack
        files.files |= {GOOD: b"{}", BAD: b'{"exit": 3}'}
        files.stuck |= {GOOD, BAD}
        self._start()

    def request(self, name: str, model: str = GOOD) -> dict[str, Any]:
        """A DeployRequest, as JSON."""
        predictor = {"format": {"name": "test"}, "storage_uri": self._files.url(model)}
        return {"name": name, "spec": {"model": predictor}}

    def happen(self) -> None:
        """Kill the server, and start it again. Downloads then come to their end."""
        kill(self._server)
        self._files.stuck.clear()
        self._start()

    def _start(self) -> None:
        self._server = self._stack.enter_context(
            server(self._folder, MODELSERVICE_LISTEN=self.address)
        )


@contextmanager
def outage(folder: Path) -> Iterator[Outage]:
    with file_server() as files, ExitStack() as stack:
        yield Outage(folder, files, stack)
