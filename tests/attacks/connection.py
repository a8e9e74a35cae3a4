"""An HTTP/2 connection of which an attack writes every frame."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME,
    LARGEST_WINDOW,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    WINDOW,
    Frame,
    frame,
    grpc_message,
    request_headers,
    setting,
    settings,
    taken_frames,
)

_MOST_UNSENT = 2**20


class Connection(asyncio.Protocol):
    """`answers` counts how its streams ended: answered, RST or GOAWAY with a code, or closed."""

    def __init__(
        self,
        authority: str,
        window: int,
        answers: Counter[str],
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.answers = answers
        self.open: set[int] = set()
        self.closed = asyncio.Event()
        self._authority = authority
        self._metadata = metadata
        self._window = window
        self._received = bytearray()
        self._next = 1
        # Bytes that the server lets through: on each stream, and on the connection, which is 0.
        self._stream_window = FIRST_WINDOW
        self._windows = {0: FIRST_WINDOW}
        self._progress = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def to(
        cls,
        address: str,
        answers: Counter[str],
        window: int = LARGEST_WINDOW,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Connection:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: cls(address, window, answers, metadata), host, int(port)
        )
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(_MOST_UNSENT)
        preface = PREFACE + frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, self._window))
        if self._window > FIRST_WINDOW:
            preface += frame(WINDOW, 0, 0, (self._window - FIRST_WINDOW).to_bytes(4))
        transport.write(preface)

    def headers(self, method: str, *others: tuple[str, str], end: bool = False) -> int:
        """Begin a call; the number of its stream."""
        stream, self._next = self._next, self._next + 2
        flags = END_HEADERS | (END_STREAM if end else 0)
        headers = request_headers(self._authority, method, *self._metadata, *others)
        self.send(frame(HEADERS, flags, stream, headers))
        self.open.add(stream)
        self._windows[stream] = self._stream_window
        return stream

    async def data(self, stream: int, content: bytes) -> None:
        """Send content as the server's windows let it through, as long as the stream is open."""
        while content and stream in self.open:
            room = min(self._windows[0], self._windows[stream], LARGEST_FRAME)
            if room > 0:
                part, content = content[:room], content[room:]
                self._windows[0] -= len(part)
                self._windows[stream] -= len(part)
                self.send(frame(DATA, 0, stream, part))
                await self.drain()
            else:
                self._progress.clear()
                await self._progress.wait()

    def call(self, method: str, content: bytes, *others: tuple[str, str]) -> int:
        """A whole request."""
        stream = self.headers(method, *others)
        self.send(frame(DATA, END_STREAM, stream, grpc_message(content)))
        return stream

    def send(self, content: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(content)

    async def drain(self) -> None:
        """Wait while more than a MiB is unsent, or until the connection is closed."""
        if not self.closed.is_set():
            await self._writable.wait()

    async def answered(self, most_open: int = 0) -> None:
        """Wait until no more than so many calls are open."""
        while len(self.open) > most_open and not self.closed.is_set():
            self._progress.clear()
            await self._progress.wait()

    def close(self) -> None:
        # asyncio fails to abort one that has ended after its last bytes were sent.
        if not self.closed.is_set():
            self.transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._take(taken_frames(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.open:
            self.answers["closed"] += len(self.open)
            self.open.clear()
        self.closed.set()
        self._writable.set()
        self._progress.set()

    def _take(self, frames: Iterable[Frame]) -> None:
        for kind, flags, stream, payload in frames:
            if kind == HEADERS and flags & END_STREAM:
                self._end(stream, "answered")
            elif kind == RESET:
                self._end(stream, f"RST {int.from_bytes(payload)}")
            elif kind == GOAWAY:
                self.answers[f"GOAWAY {int.from_bytes(payload[4:8])}"] += 1
            elif kind == WINDOW and stream in self._windows:
                self._windows[stream] += int.from_bytes(payload)
            elif kind in (SETTINGS, PING) and not flags & ACK:
                if kind == SETTINGS:
                    self._set_stream_window(settings(payload))
                self.send(frame(kind, ACK, 0, payload if kind == PING else b""))
        self._progress.set()

    def _set_stream_window(self, given: dict[int, int]) -> None:
        more = given.get(INITIAL_WINDOW_SIZE, self._stream_window) - self._stream_window
        self._stream_window += more
        for stream in self._windows.keys() - {0}:
            self._windows[stream] += more

    def _end(self, stream: int, how: str) -> None:
        self._windows.pop(stream, None)
        if stream in self.open:
            self.open.discard(stream)
            self.answers[how] += 1
