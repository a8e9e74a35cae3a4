"""HTTP/2 frames as bytes, for load that costs next to nothing and for peers that break the rules.

A library would refuse to write what a rude peer writes, and takes as much CPU for a frame as the
server that is measured beside it. Headers are sent in HPACK's simplest form, and those of answers
are not read: their frames say enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 2**16 - 1
LARGEST_FRAME = 2**14
_FRAME_HEADER = 9


class Frame(NamedTuple):
    """A frame as it was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def setting(identifier: int, value: int) -> bytes:
    return identifier.to_bytes(2) + value.to_bytes(4)


def settings(payload: bytes) -> dict[int, int]:
    """The values of a SETTINGS frame by their identifiers."""
    return {
        int.from_bytes(payload[at : at + 2]): int.from_bytes(payload[at + 2 : at + 6])
        for at in range(0, len(payload), 6)
    }


def grpc_message(content: bytes, *, compressed: bool = False) -> bytes:
    """A message of gRPC as it stands in DATA."""
    return bytes((compressed,)) + len(content).to_bytes(4) + content


def taken_frames(received: bytearray) -> Iterator[Frame]:
    """Take every whole frame from what was received."""
    start = 0
    while len(received) - start >= _FRAME_HEADER:
        body = start + _FRAME_HEADER
        end = body + int.from_bytes(received[start : start + 3])
        if end > len(received):
            break
        stream = int.from_bytes(received[start + 5 : body])
        yield Frame(received[start + 3], received[start + 4], stream, bytes(received[body:end]))
        start = end
    del received[:start]


def request_headers(authority: str, method: str, *others: tuple[str, str]) -> bytes:
    return b"".join(
        literal(name, value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *others,
        )
    )


def literal(name: str, value: str) -> bytes:
    """A header as it is, which nobody has to remember."""
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    content = text.encode()
    if len(content) < 127:
        return bytes((len(content),)) + content
    rest, length = len(content) - 127, bytearray((127,))
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*length, rest)) + content
