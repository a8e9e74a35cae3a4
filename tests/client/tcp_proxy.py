"""A TCP proxy that cuts its connections, or passes nothing on, as networks do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.patience import PATIENCE_SECONDS


class TcpProxy:
    """Listens on loopback and passes each new connection to the next of `backends`, which can be
    changed. `accepted`: how many connections it has passed to a backend."""

    def __init__(self, *backends: str) -> None:
        self.backends = backends
        self.address = ""
        self.accepted = 0
        self._turn = -1
        self._loop = asyncio.new_event_loop()
        self._pairs: set[_Pair] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tcp proxy", daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_SECONDS)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pairs)

    def cut(self) -> None:
        """Reset every connection."""
        self._inside(lambda: [pair.cut() for pair in list(self._pairs)])

    def black_hole(self) -> None:
        """Pass nothing more on through the connections that there are, and keep them open."""
        self._inside(lambda: [pair.passing.clear() for pair in self._pairs])

    def stop(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)

    def _inside(self, act: object) -> None:
        done = threading.Event()

        def acted() -> None:
            act()  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(acted)
        assert done.wait(PATIENCE_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, "127.0.0.1", 0)
        )
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn += 1
        host, _, port = self.backends[self._turn % len(self.backends)].rpartition(":")
        try:
            there = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self.accepted += 1
        pair = _Pair(writer, there[1])
        self._pairs.add(pair)
        try:
            # asyncio would log the cancellation of `stop` as an error.
            with suppress(asyncio.CancelledError):
                await asyncio.gather(pair.pump(reader, there[1]), pair.pump(there[0], writer))
        finally:
            pair.cut()
            self._pairs.discard(pair)


class _Pair:
    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.passing = asyncio.Event()
        self.passing.set()
        self._writers = writers

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self.passing.wait()
                writer.write(data)
                await writer.drain()
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextmanager
def tcp_proxy(*backends: str) -> Iterator[TcpProxy]:
    """A proxy before the servers at these addresses."""
    proxy = TcpProxy(*backends)
    try:
        yield proxy
    finally:
        proxy.stop()
