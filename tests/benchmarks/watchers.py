"""Thousands of WatchStatus streams that cost next to nothing to read: HTTP/2 frames on a few
connections. Both servers that are compared are read by it, in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from modelservice.v1 import model_service_pb2 as pb

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

from .load import LoadFailed

METHOD = "/modelservice.v1.ModelService/WatchStatus"
# The server allows so many on one connection.
STREAMS_EACH = 1000
# A stalled reader takes the first messages, and then none.
STALLED_WINDOW = 8 * 2**10
RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 300.0

_PREFIX = 5
# How a message begins whose field `type` is RESET.
_RESET = pb.WatchStatusResponse(type=pb.WatchStatusResponse.TYPE_RESET).SerializeToString()

Awaited = Callable[["Reader", bytes], bool]


class Reader:
    """One stream: its last message, and how many came since it was opened."""

    __slots__ = ("last", "messages", "partial", "request", "stalled")

    def __init__(self, request: bytes, *, stalled: bool = False) -> None:
        self.request = request
        self.stalled = stalled
        self.reset()

    def reset(self) -> None:
        """Begin anew, for a new stream."""
        self.last = b""
        self.messages = 0
        self.partial = bytearray()


class Watchers:
    """Readers of one server.

    `refused` counts the streams that the server refused, which are opened again after
    RETRY_SECONDS; `resets` counts messages of RESET. A stream that ends after its first message is
    LoadFailed, unless it is stalled: then it is opened again.
    """

    def __init__(self, address: str) -> None:
        self.refused = 0
        self.resets = 0
        self.failure = ""
        self.readers: list[Reader] = []
        self._address = address
        self._connections: list[_Connection] = []
        self._waiting: set[Reader] = set()
        self._awaited: Awaited = lambda reader, message: False
        self._arrivals: list[float] = []
        self._progress = asyncio.Event()

    async def open(self, requests: Sequence[bytes], messages: int) -> float:
        """Open a stream for each request at once; the seconds until all have so many messages."""
        readers = [Reader(request) for request in requests]
        self.readers += readers
        began = time.perf_counter()
        self._expect(readers, lambda reader, _: reader.messages >= messages)
        await self._open(readers)
        return max(await self._all()) - began

    async def open_stalled(self, requests: Sequence[bytes]) -> None:
        """Open streams that are read no further than STALLED_WINDOW."""
        await self._open([Reader(request, stalled=True) for request in requests])

    async def time_change(self, marker: bytes, change: Callable[[], Any]) -> list[float]:
        """The seconds from the beginning of `change`, which runs in a thread, until each reader
        has a message with the marker, in the order of their arrival."""
        self._expect(self.readers, lambda _, message: marker in message)
        began = time.perf_counter()
        await asyncio.to_thread(change)
        return [at - began for at in await self._all()]

    async def storm(self, marker: bytes, change: Callable[[], Any]) -> float:
        """Cut every connection, change the service, and open all streams again with their tokens;
        the seconds from there until each reader has the change."""
        self.close()
        await asyncio.to_thread(change)
        for reader in self.readers:
            request = pb.WatchStatusRequest.FromString(reader.request)
            request.resume_token = pb.WatchStatusResponse.FromString(reader.last).resume_token
            reader.request = request.SerializeToString()
            reader.reset()
        self._expect(self.readers, lambda _, message: marker in message)
        began = time.perf_counter()
        await self._open(self.readers)
        return max(await self._all()) - began

    def close(self) -> None:
        """Cut every connection."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def received(self, reader: Reader, message: bytes) -> None:
        """Count a message."""
        reader.last = message
        reader.messages += 1
        if message.startswith(_RESET):
            self.resets += 1
        if reader in self._waiting and self._awaited(reader, message):
            self._waiting.discard(reader)
            self._arrivals.append(time.perf_counter())
            if not self._waiting:
                self._progress.set()

    def fail(self, why: str) -> None:
        """Have the one who waits raise LoadFailed."""
        self.failure = self.failure or why
        self._progress.set()

    def _expect(self, readers: Sequence[Reader], awaited: Awaited) -> None:
        self._waiting, self._awaited, self._arrivals = set(readers), awaited, []
        self._progress.clear()

    async def _open(self, readers: Sequence[Reader]) -> None:
        host, _, port = self._address.rpartition(":")
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(readers), STREAMS_EACH):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, self._address), host, int(port)
                )
                self._connections.append(connection)
                group.create_task(connection.watch(readers[start : start + STREAMS_EACH]))

    async def _all(self) -> list[float]:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._progress.wait()
        except TimeoutError:
            self.fail(f"{len(self._waiting):,} watches do not get what they wait for")
        if self.failure:
            raise LoadFailed(self.failure)
        return self._arrivals


class _Connection(asyncio.Protocol):
    """A connection with up to STREAMS_EACH streams.

    Every stream begins with STALLED_WINDOW, which those that are read raise to the largest.
    """

    def __init__(self, watchers: Watchers, authority: str) -> None:
        self._watchers = watchers
        self._headers = request_headers(authority, METHOD)
        self._streams: dict[int, Reader] = {}
        self._next_stream = 1
        self._received = bytearray()
        self._unacknowledged = 0
        self._send_window = FIRST_WINDOW
        self._sendable = asyncio.Event()
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = setting(INITIAL_WINDOW_SIZE, STALLED_WINDOW)
        more = (LARGEST_WINDOW - FIRST_WINDOW).to_bytes(4)
        transport.write(PREFACE + frame(SETTINGS, 0, 0, window) + frame(WINDOW, 0, 0, more))

    async def watch(self, readers: Sequence[Reader]) -> None:
        """Open a stream for each, as the server's window lets the requests through."""
        for reader in readers:
            body = grpc_message(reader.request)
            while self._send_window < len(body) and not self._closing:
                self._sendable.clear()
                await self._sendable.wait()
            self._send_window -= len(body)
            self._open(reader, body)

    def close(self) -> None:
        """Hang up as a host that is gone does."""
        self._closing = True
        self._sendable.set()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        for kind, flags, stream, payload in taken_frames(self._received):
            if kind == DATA:
                self._unacknowledged += len(payload)
                self._take(self._streams[stream], payload)
            elif (kind == HEADERS and flags & END_STREAM) or kind == RESET:
                self._end(self._streams.pop(stream, None))
            elif kind == WINDOW and stream == 0:
                self._send_window += int.from_bytes(payload)
                self._sendable.set()
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self._transport.write(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind == GOAWAY:
                self._watchers.fail("the server hung up")
        if self._unacknowledged > LARGEST_WINDOW // 4:
            self._transport.write(frame(WINDOW, 0, 0, self._unacknowledged.to_bytes(4)))
            self._unacknowledged = 0

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._watchers.fail("the server closed a connection")

    def _open(self, reader: Reader, body: bytes) -> None:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._streams[stream] = reader
        frames = [frame(HEADERS, END_HEADERS, stream, self._headers)]
        if not reader.stalled:
            more = (LARGEST_WINDOW - STALLED_WINDOW).to_bytes(4)
            frames.append(frame(WINDOW, 0, stream, more))
        frames.append(frame(DATA, END_STREAM, stream, body))
        self._transport.write(b"".join(frames))

    def _take(self, reader: Reader, payload: bytes) -> None:
        if not reader.partial and len(payload) == _PREFIX + int.from_bytes(payload[1:_PREFIX]):
            self._watchers.received(reader, payload[_PREFIX:])
            return
        partial = reader.partial
        partial += payload
        while len(partial) >= _PREFIX:
            end = _PREFIX + int.from_bytes(partial[1:_PREFIX])
            if len(partial) < end:
                break
            message = bytes(partial[_PREFIX:end])
            del partial[:end]
            self._watchers.received(reader, message)

    def _end(self, reader: Reader | None) -> None:
        if reader is None or self._closing:
            return
        if reader.messages and not reader.stalled:
            self._watchers.fail("a watch ended")
            return
        if not reader.messages:
            self._watchers.refused += 1
        reader.reset()
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._retry, reader)

    def _retry(self, reader: Reader) -> None:
        if not self._closing:
            body = grpc_message(reader.request)
            self._send_window -= len(body)
            self._open(reader, body)
