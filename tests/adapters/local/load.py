"""Callers of a service, who take note of every request that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.adapters.local.world import eventually


class Load:
    """Callers of one address, until told to stop; `served` counts the answers by server."""

    def __init__(self, url: str, body: bytes) -> None:
        self.url = f"{url}/v2/models/iris/infer"
        self.body = body
        self.served: dict[str, int] = {}
        self.failed: list[str] = []
        self.stop = asyncio.Event()

    async def call(self, session: aiohttp.ClientSession) -> None:
        while not self.stop.is_set():
            try:
                async with session.post(self.url, data=self.body) as response:
                    assert response.status == 200, await response.text()
                    generation = response.headers.get("X-Server", "//").split("/")[2]
                    await response.read()
                    self.served[generation] = self.served.get(generation, 0) + 1
            except Exception as e:
                self.failed.append(repr(e))

    async def goes_on(self) -> None:
        """Until some more are answered, whoever answers."""
        answered = sum(self.served.values())
        await eventually("load", lambda: sum(self.served.values()) > answered + 50)


@asynccontextmanager
async def load(url: str, callers: int = 4, body: bytes = b"x" * 1000) -> AsyncIterator[Load]:
    """Keep-alive and new-connection callers, so many of each, for a block."""
    load = Load(url, body)
    async with (
        aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as kept,
        aiohttp.ClientSession(
            headers={"Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(force_close=True),
        ) as fresh,
        asyncio.TaskGroup() as tasks,
    ):
        for session in (kept, fresh):
            for _ in range(callers):
                tasks.create_task(load.call(session))
        try:
            yield load
        finally:
            load.stop.set()
