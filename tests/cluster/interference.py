"""A relay between the server and the API server that refuses, swallows, delays and cuts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lab import Cluster
from lab.credentials import write_kubeconfig
from lab.port_blocks import PortBlock

T = TypeVar("T")

_CHUNK = 2**16


class Background:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have it done there; its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        """Cancel what is left, and end."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def readdressed(kubeconfig: Path, to: Path, *, port: int, ca: bytes) -> Path:
    """A copy at `to` of a kubeconfig that `write_kubeconfig` wrote, for a port of 127.0.0.1."""
    token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
    return write_kubeconfig(to, server=f"https://127.0.0.1:{port}", ca=ca, token=token)


class Link:
    """Relays every byte between a port of 127.0.0.1 and the API server, TLS as it is, until told
    otherwise. Blocking calls, from any thread.

    `kubeconfig` is a copy, in `folder`, of the one given, that leads here. What is swallowed is
    not lost but late, as on a real network: it goes on its way at `restore`.
    """

    def __init__(self, cluster: Cluster, kubeconfig: Path, folder: Path) -> None:
        self._there = urlsplit(cluster.server)
        self._ports = PortBlock()
        self._port = self._ports.next()
        self.kubeconfig = readdressed(
            kubeconfig, folder / f"link-{self._port}.kubeconfig", port=self._port, ca=cluster.ca
        )
        self._background = Background()
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._background.run(self._open())

    def close(self) -> None:
        """End every connection, and listen no longer."""
        self.refuse()
        self._background.close()
        self._ports.close()

    def refuse(self) -> None:
        """End every connection and refuse new ones."""
        self._background.run(self._refuse())

    def swallow(self, *, requests: bool = True, answers: bool = True) -> None:
        """Be a black hole, for connections that are open and for new ones."""
        self._background.run(self._set(requests=not requests, answers=not answers))

    def delay(self, seconds: float) -> None:
        """Let everything wait so long, in each direction."""
        self._delay = seconds

    def cut(self) -> None:
        """Reset every connection."""
        self._background.run(self._cut())

    def cut_within_answers(self) -> None:
        """Of the next piece of each open connection's answers pass on a half, then reset it."""
        for connection in list(self._connections):
            connection.to_be_cut = True

    def restore(self) -> None:
        """Relay again as if nothing had been."""
        self._background.run(self._restore())

    async def _open(self) -> None:
        self._requests_pass, self._answers_pass = asyncio.Event(), asyncio.Event()
        await self._restore()

    async def _restore(self) -> None:
        self._delay = 0.0
        await self._set(requests=True, answers=True)
        if self._server is None:
            self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)

    async def _refuse(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def _set(self, *, requests: bool, answers: bool) -> None:
        for event, passes in ((self._requests_pass, requests), (self._answers_pass, answers)):
            if passes:
                event.set()
            else:
                event.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up = await asyncio.open_connection(self._there.hostname, self._there.port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, up[1])
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pump(reader, up[1], self._requests_pass, connection),
                self._pump(up[0], writer, self._answers_pass, connection),
            )
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        passes: asyncio.Event,
        connection: _Connection,
    ) -> None:
        # Either side may be reset at any time, which is what this is for.
        with suppress(ConnectionError):
            while chunk := await source.read(_CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await passes.wait()
                if connection.to_be_cut and passes is self._answers_pass:
                    sink.write(chunk[: len(chunk) // 2])
                    await sink.drain()
                    connection.reset()
                    return
                sink.write(chunk)
                await sink.drain()
        sink.close()


class _Connection:
    """Both ends of one relayed connection."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.to_be_cut = False
        self._writers = writers

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
