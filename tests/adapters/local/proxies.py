"""Upstreams of all kinds, and the proxy before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from aiohttp import web

from lab.port_blocks import own_block
from server.adapters.local.proxy.port_allocator import PortAllocator, listen
from server.adapters.local.proxy.reverse_proxy import Proxy, Upstream
from server.deadline import Deadline

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SECOND = timedelta(seconds=1)


@asynccontextmanager
async def upstream_of(
    handler: Handler, timeout: timedelta | None = None
) -> AsyncIterator[Upstream]:
    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream = Upstream(runner.addresses[0][1], timeout)
    try:
        yield upstream
    finally:
        await upstream.close()
        await runner.cleanup()


@asynccontextmanager
async def raw_upstream(answer: bytes) -> AsyncIterator[Upstream]:
    """One that writes just these bytes to whoever asks, and hangs up."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    upstream = Upstream(server.sockets[0].getsockname()[1])
    try:
        yield upstream
    finally:
        await upstream.close()
        server.close()


@asynccontextmanager
async def proxied(upstream: Upstream | None) -> AsyncIterator[tuple[str, Proxy]]:
    proxy = Proxy(lambda: "it is PROGRESSING: loading")
    port = PortAllocator(own_block().ports).allocate()
    proxy.upstream = upstream
    await proxy.start(listen(port))
    try:
        yield f"http://127.0.0.1:{port}", proxy
    finally:
        await proxy.close(Deadline.after(SECOND))
