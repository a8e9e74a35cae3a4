"""A grpc.aio server that pushes ready-made bytes to every open WatchStatus; prints its port.

`python -m tests.benchmarks.bare_watch_server OPENING CHANGED`: files of gRPC messages. A stream
begins with those of OPENING; each Deploy sends CHANGED to all, with the marker of its request.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc

from .bare_server import serve
from .samples import MARKER

_OPTIONS = (
    # By default most streams of a storm are refused.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
)


def messages_in(content: bytes) -> list[bytes]:
    """Return the messages that stand one after another, each behind gRPC's prefix."""
    messages, start = [], 0
    while start < len(content):
        body = start + 5
        start = body + int.from_bytes(content[start + 1 : body])
        messages.append(content[body:start])
    return messages


class Feed:
    """The bytes that streams begin with, and the latest that all of them get."""

    def __init__(self, opening: list[bytes], changed: bytes) -> None:
        self._opening = opening
        self._changed = changed
        self._change = asyncio.Event()

    async def watch(self, request: bytes, context: Any) -> None:
        change = self._change
        for message in self._opening:
            await context.write(message)
        while True:
            await change.wait()
            change = self._change
            await context.write(self._changed)

    async def deploy(self, request: bytes, context: Any) -> bytes:
        [marker] = set(MARKER.findall(request))
        self._changed = MARKER.sub(marker, self._changed)
        self._opening = [MARKER.sub(marker, message) for message in self._opening]
        change, self._change = self._change, asyncio.Event()
        change.set()
        return b""


async def main(opening: Path, changed: Path) -> None:
    feed = Feed(messages_in(opening.read_bytes()), *messages_in(changed.read_bytes()))
    handlers = {
        "WatchStatus": grpc.unary_stream_rpc_method_handler(feed.watch),
        "Deploy": grpc.unary_unary_rpc_method_handler(feed.deploy),
    }
    await serve(handlers, _OPTIONS)


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
