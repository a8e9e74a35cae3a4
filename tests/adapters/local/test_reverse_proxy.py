"""The address of a service passes on what was said, both ways, and says so where it cannot."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
from aiohttp import web

from server.adapters.local.proxy.reverse_proxy import ProbeResult, Upstream
from server.deadline import Deadline
from tests.adapters.local.proxies import SECOND, proxied, raw_upstream, upstream_of


async def test_a_request_arrives_as_it_was_sent(session: aiohttp.ClientSession) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=await request.read())

    body = gzip.compress(b"x" * 10_000_000)
    async with upstream_of(handler) as upstream, proxied(upstream) as (url, _):
        headers = {
            "X-One": "1",
            "Content-Encoding": "gzip",
            "Connection": "X-Hop",
            "X-Hop": "mine",
            "TE": "trailers",
        }
        asked = aiohttp.client.URL(f"{url}/a%2Fb/%C3%A9?q=1%262&r=", encoded=True)
        async with session.put(asked, data=body, headers=headers) as response:
            assert response.status == 200
    [request] = seen
    assert (request.method, request.raw_path) == ("PUT", "/a%2Fb/%C3%A9?q=1%262&r=")
    assert request.headers["X-One"] == "1"
    assert request.headers["Content-Length"] == str(len(body))
    assert not {"X-Hop", "TE"} & set(request.headers)


async def test_an_answer_arrives_as_it_was_given(session: aiohttp.ClientSession) -> None:
    body = gzip.compress(b"y" * 1000)

    async def handler(request: web.Request) -> web.Response:
        response = web.Response(status=418, reason="Short", body=body)
        response.headers["Content-Encoding"] = "gzip"
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        response.headers["Keep-Alive"] = "timeout=1"
        return response

    async with upstream_of(handler) as upstream, proxied(upstream) as (url, _):
        async with session.get(url) as response:
            assert (response.status, response.reason) == (418, "Short")
            assert await response.read() == body
            assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
            assert "Keep-Alive" not in response.headers
        async with session.head(url) as response:
            assert response.headers["Content-Length"] == str(len(body))


async def test_a_redirect_is_the_callers_to_follow(session: aiohttp.ClientSession) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async with (
        upstream_of(handler) as upstream,
        proxied(upstream) as (url, _),
        session.get(url, allow_redirects=False) as response,
    ):
        assert (response.status, response.headers["Location"]) == (302, "/elsewhere")


async def test_streams_flow_both_ways_while_they_last(session: aiohttp.ClientSession) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk.upper())
        return response

    turns: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def spoken() -> AsyncIterator[bytes]:
        while (said := await turns.get()) is not None:
            yield said

    async with upstream_of(handler) as upstream, proxied(upstream) as (url, _):
        await turns.put(b"first")
        async with session.post(url, data=spoken()) as response:
            assert await response.content.readany() == b"FIRST"
            await turns.put(b"second")
            assert await response.content.readany() == b"SECOND"
            await turns.put(None)
            assert await response.read() == b""


async def test_who_waits_to_be_let_on_is(session: aiohttp.ClientSession) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async with (
        upstream_of(handler) as upstream,
        proxied(upstream) as (url, _),
        asyncio.timeout(5),
        session.post(url, data=b"x" * 5, expect100=True) as response,
    ):
        assert await response.text() == "5"


async def test_while_there_is_nothing_it_is_503_with_the_reason(
    session: aiohttp.ClientSession,
) -> None:
    async with proxied(None) as (url, _), session.post(url, data=b"x" * 1000) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert await response.json() == {"error": "it is PROGRESSING: loading"}


async def test_where_nobody_listens_the_next_upstream_is_asked_and_gets_the_body(
    session: aiohttp.ClientSession,
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    class Gone(Upstream):
        async def send(self, request: web.BaseRequest) -> aiohttp.ClientResponse:
            proxy.upstream = there
            return await super().send(request)

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = Gone(closed.getsockname()[1])
    async with upstream_of(handler) as there, proxied(gone) as (url, proxy):
        async with session.post(url, data=b"x" * 100_000) as response:
            assert await response.text() == "100000"
        proxy.upstream = gone
    await gone.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"nonsense\r\n\r\n"])
async def test_an_upstream_that_breaks_before_its_answer_is_503(
    session: aiohttp.ClientSession, said: bytes
) -> None:
    async with (
        raw_upstream(said) as upstream,
        proxied(upstream) as (url, _),
        session.post(url, data=b"x") as response,
    ):
        assert response.status == 503
        assert "closed the connection" in await response.text()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_an_upstream_that_breaks_within_its_answer_is_no_whole_answer(
    session: aiohttp.ClientSession, said: bytes
) -> None:
    async with (
        raw_upstream(said) as upstream,
        proxied(upstream) as (url, _),
        session.get(url) as response,
    ):
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_no_answer_within_the_request_timeout_is_504(session: aiohttp.ClientSession) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(3)
        return web.Response()

    async with (
        upstream_of(handler, timedelta(seconds=0.2)) as upstream,
        proxied(upstream) as (url, _),
        session.get(url) as response,
    ):
        assert response.status == 504
        assert "request_timeout" in await response.text()


async def test_a_caller_that_leaves_is_not_waited_for(session: aiohttp.ClientSession) -> None:
    left = asyncio.Event()
    reached = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        reached.set()
        try:
            await asyncio.sleep(30)
        finally:
            left.set()
        return web.Response()

    application = web.Application()
    application.router.add_get("/", handler)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = Upstream(runner.addresses[0][1])
    async with proxied(upstream) as (url, _):
        call = asyncio.create_task(session.get(url).__aenter__())
        await reached.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await left.wait()
            await upstream.drained(Deadline.after(10 * SECOND))
    await upstream.close()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("who", "ready", "heard"),
    [
        ({"name": "ours"}, 200, ProbeResult.READY),
        ({"name": "ours"}, 400, ProbeResult.LOADING),
        ({"name": "ours"}, 503, ProbeResult.LOADING),
        ({"name": "another"}, 200, ProbeResult.NOTHING),
        (["ours"], 200, ProbeResult.NOTHING),
        ("no JSON", 200, ProbeResult.NOTHING),
    ],
)
async def test_only_the_very_server_is_believed(
    who: object, ready: int, heard: ProbeResult
) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/v2":
            return web.Response(text=who) if isinstance(who, str) else web.json_response(who)
        return web.Response(status=ready)

    async with upstream_of(handler) as upstream:
        assert await upstream.probe("ours", "/v2/models/iris/ready") is heard
