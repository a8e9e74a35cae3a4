"""What the address of a service answers by itself."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import aiohttp
import pytest
from aiohttp import web

from server.adapters.local.proxy import reverse_proxy
from server.adapters.local.proxy.reverse_proxy import Upstream
from tests.adapters.local.proxies import proxied, upstream_of


async def test_a_server_that_takes_no_connection_is_503_since_nothing_was_sent(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reverse_proxy, "CONNECT_SECONDS", 0.2)
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        upstream = Upstream(full.getsockname()[1])
        async with proxied(upstream) as (url, _), session.post(url, data=b"x") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
        await upstream.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("localhost:80", 200),
        ("LOCALHOST", 200),
        ("rebound.example.com", 421),
        ("rebound.example.com:80", 421),
        ("127.0.0.1.example.com", 421),
    ],
)
async def test_only_who_asks_for_this_machine_is_answered(
    session: aiohttp.ClientSession, host: str, status: int
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    async with (
        upstream_of(handler) as upstream,
        proxied(upstream) as (url, _),
        session.get(url, headers={"Host": host}) as response,
    ):
        assert response.status == status
