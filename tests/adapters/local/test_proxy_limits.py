"""A caller that keeps the address of a service waiting, or asks too much of it, is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from yarl import URL

from server.adapters.local.proxy import reverse_proxy
from tests.adapters.local.proxies import proxied, upstream_of

HEAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PATIENCE_SECONDS = 10.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reverse_proxy, "IDLE_SECONDS", 0.5)


@asynccontextmanager
async def address() -> AsyncIterator[str]:
    """The address of a model that answers with what it is sent."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async with upstream_of(echo) as upstream, proxied(upstream) as (url, _):
        yield url


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Streams]:
    """A connection, of one that does not care for HTTP."""
    asked = URL(url)
    reader, writer = await asyncio.open_connection(asked.host, asked.port, limit=2**26)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def heard_until_cut(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other side hangs up."""
    heard = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        try:
            while some := await reader.read(2**16):
                heard += some
        except ConnectionError:
            pass
    return heard


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing at all"),
        pytest.param(HEAD + b"X-Slow: ", id="half a header"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\nhalf", id="half a body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nha", id="half a chunk"),
    ],
)
async def test_a_caller_that_stops_in_the_middle_is_cut(sent: bytes) -> None:
    async with address() as url, connected(url) as (reader, writer):
        writer.write(sent)
        assert await heard_until_cut(reader) == b""


@pytest.mark.usefixtures("briefly")
async def test_headers_that_come_byte_by_byte_are_not_waited_for() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with address() as url, connected(url) as (reader, writer):
        writer.write(HEAD + b"X-Slow: ")
        dripping = asyncio.create_task(drip(writer))
        assert await heard_until_cut(reader) == b""
        dripping.cancel()


@pytest.mark.usefixtures("briefly")
async def test_a_connection_that_asks_for_nothing_more_is_closed() -> None:
    async with address() as url, connected(url) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 2\r\n\r\nhi")
        heard = await heard_until_cut(reader)
        assert heard.startswith(b"HTTP/1.1 200 ")
        assert heard.endswith(b"hi")


@pytest.mark.usefixtures("briefly")
async def test_a_caller_that_does_not_read_is_cut_and_its_call_ends() -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 2**16)
        finally:
            ended.set()

    async with upstream_of(endless) as upstream, proxied(upstream) as (url, _):
        asked = URL(url)
        reader, writer = await asyncio.open_connection(asked.host, asked.port, limit=2**10)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ended.wait()
        writer.transport.abort()
        assert not reader.at_eof()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(b"X-Long: " + b"x" * 2**14 + b"\r\n", id="a long header"),
        pytest.param(b"".join(b"X-%d: x\r\n" % i for i in range(200)), id="many headers"),
    ],
)
async def test_headers_have_a_bound_and_what_passes_it_fills_no_log(
    headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with address() as url, connected(url) as (reader, writer):
        writer.write(HEAD + headers + b"\r\n")
        assert (await heard_until_cut(reader)).startswith(b"HTTP/1.0 400 ")
    assert not caplog.records


async def test_connections_have_a_bound_and_those_that_are_there_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reverse_proxy, "MOST_CONNECTIONS", 2)
    ask = HEAD + b"Content-Length: 2\r\n\r\nhi"
    async with address() as url, connected(url) as (reader, writer):
        async with connected(url) as (_, other), connected(url) as (refused, _):
            other.write(b"GET")
            heard = await heard_until_cut(refused)
            assert heard.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in heard
        writer.write(ask)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
