"""Load that costs next to nothing to make: one gRPC request over and over, as ready HTTP/2 frames.

A gRPC client in Python or Go needs about as much CPU for a call as the servers measured here, so
that on few cores it would hold the faster of two back and make them look alike. All requests being
the same, their bytes are made once, and of the answers only the frames are looked at.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    WINDOW,
    frame,
    grpc_message,
    request_headers,
    setting,
    taken_frames,
)

CONNECTIONS = 4
IN_FLIGHT = 16  # on each connection
PATIENCE_SECONDS = 60.0

_MESSAGE_PREFIX = 5


class LoadFailed(RuntimeError):
    """The server did not answer as a gRPC server that is well does."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server answered: so many calls in so many seconds, and how large each message was."""

    calls: int
    seconds: float
    message_bytes: int

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


async def load(
    address: str,
    method: str,
    message: bytes,
    seconds: float,
    tls: ssl.SSLContext | None = None,
    metadata: Sequence[tuple[str, str]] = (),
) -> Served:
    """Keep CONNECTIONS * IN_FLIGHT calls open for so long, in plaintext without `tls`. Raises
    LoadFailed."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    connections: list[_Connection] = []
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(
            lambda: _Connection(address, method, message, metadata), host, int(port), ssl=tls
        )
        connections.append(connection)
    began = time.perf_counter()
    try:
        for connection in connections:
            connection.ask(IN_FLIGHT)
        async with asyncio.timeout(seconds + PATIENCE_SECONDS):
            for connection in connections:
                await connection.finish(began + seconds)
    except TimeoutError:
        raise LoadFailed("it does not answer") from None
    finally:
        for connection in connections:
            connection.close()
    took = time.perf_counter() - began
    calls = sum(c.answered for c in connections)
    received = sum(c.data_bytes for c in connections)
    return Served(calls, took, round(received / calls) - _MESSAGE_PREFIX)


class _Connection(asyncio.Protocol):
    """One HTTP/2 connection that asks again whenever it is answered."""

    def __init__(
        self, authority: str, method: str, message: bytes, metadata: Sequence[tuple[str, str]]
    ) -> None:
        self.answered = 0
        self.data_bytes = 0
        self._headers = request_headers(authority, method, *metadata)
        self._body = grpc_message(message)
        self._next_stream = 1
        self._open = 0
        self._begun: set[int] = set()  # streams that have brought some of a message
        self._received = bytearray()
        self._ended = asyncio.get_running_loop().create_future()
        self._stop_at = float("inf")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = setting(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        more = (LARGEST_WINDOW - FIRST_WINDOW).to_bytes(4)
        transport.write(PREFACE + frame(SETTINGS, 0, 0, window) + frame(WINDOW, 0, 0, more))

    def ask(self, times: int) -> None:
        """Send so many requests at once."""
        frames = []
        for stream in range(self._next_stream, self._next_stream + 2 * times, 2):
            frames.append(frame(HEADERS, END_HEADERS, stream, self._headers))
            frames.append(frame(DATA, END_STREAM, stream, self._body))
        self._next_stream += 2 * times
        self._open += times
        self._transport.write(b"".join(frames))

    async def finish(self, stop_at: float) -> None:
        """Return once all is answered that was asked before this moment of perf_counter."""
        self._stop_at = stop_at
        await self._ended

    def close(self) -> None:
        """Hang up."""
        if not self._ended.cancel() and not self._ended.cancelled():
            self._ended.exception()  # one connection's failure was told, for all of them
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        ended = 0
        for kind, flags, stream, payload in taken_frames(self._received):
            if kind == DATA:
                self.data_bytes += len(payload)
                self._begun.add(stream)
            elif kind == HEADERS and flags & END_STREAM:
                ended += 1
                self._end(stream)
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self._transport.write(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind in (RESET, GOAWAY):
                self._fail("it cut a call, or hung up")
        self._note(ended)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("it closed the connection")

    def _end(self, stream: int) -> None:
        # The status is compressed; but only a call that went well has a message.
        if stream not in self._begun:
            self._fail("it refused a call")
        self._begun.discard(stream)

    def _note(self, ended: int) -> None:
        self.answered += ended
        self._open -= ended
        if time.perf_counter() < self._stop_at:
            if ended:
                self.ask(ended)
        elif not self._open and not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_exception(LoadFailed(why))
