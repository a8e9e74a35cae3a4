"""Client and AsyncClient behind one interface, so that one script drives both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from modelservice.v1.model_service_pb2 import WatchStatusResponse
from modelservice_client import AsyncClient, Client

# The methods that return an iterator.
ITERATED = ("list", "list_revisions", "pages", "watch")


class Face(Protocol):
    """A client whose methods are awaited."""

    client: Any

    async def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method; what it iterates comes as a list."""

    def watch(self, *arguments: Any, **named: Any) -> Any:
        """A watch as an asynchronous context and iterator."""

    async def close(self) -> None:
        """Close the client."""


class InThreads:
    def __init__(self, target: str, **named: Any) -> None:
        self.client = Client(target, **named)

    async def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        def called() -> Any:
            result = getattr(self.client, method)(*arguments, **named)
            return list(result) if method in ITERATED else result

        return await asyncio.to_thread(called)

    @asynccontextmanager
    async def watch(self, *arguments: Any, **named: Any) -> AsyncIterator[_Messages]:
        with self.client.watch(*arguments, **named) as messages:
            yield _Messages(lambda: asyncio.to_thread(next, messages))

    async def close(self) -> None:
        self.client.close()


class InAsyncio:
    def __init__(self, target: str, **named: Any) -> None:
        self.client = AsyncClient(target, **named)

    async def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        result = getattr(self.client, method)(*arguments, **named)
        if method in ITERATED:
            return [item async for item in result]
        return await result

    @asynccontextmanager
    async def watch(self, *arguments: Any, **named: Any) -> AsyncIterator[_Messages]:
        async with self.client.watch(*arguments, **named) as messages:
            yield _Messages(lambda: anext(messages))

    async def close(self) -> None:
        await self.client.close()


class _Messages:
    def __init__(self, next_message: Callable[[], Awaitable[WatchStatusResponse]]) -> None:
        self._next = next_message

    async def next(self) -> WatchStatusResponse:
        return await self._next()


FACES: dict[str, Callable[..., Face]] = {"threads": InThreads, "asyncio": InAsyncio}


@asynccontextmanager
async def client(kind: str, target: str, **named: Any) -> AsyncIterator[Face]:
    face = FACES[kind](target, **named)
    try:
        yield face
    finally:
        await face.close()
