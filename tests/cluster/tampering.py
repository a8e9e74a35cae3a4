"""A reverse proxy before the API server that answers some requests itself, and wrongly."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
from aiohttp import web

from lab import Cluster
from lab.credentials import write_loopback_certificate
from lab.port_blocks import PortBlock

from .interference import Background, readdressed

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]

# They belong to one connection, not to the message.
_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
_LARGEST_BODY = 2**24


class Tampering:
    """Passes every request on with its caller's own token, until told otherwise. Blocking calls,
    from any thread.

    `kubeconfig` is a copy, in `folder`, of the one given, that leads here. `requests` counts what
    came, by path; those of watches have "?watch" at the end.
    """

    def __init__(self, cluster: Cluster, kubeconfig: Path, folder: Path) -> None:
        self.requests: Counter[str] = Counter()
        self._api_server = cluster.server
        self._trusting = ssl.create_default_context(cadata=cluster.ca.decode())
        self._trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._ports = PortBlock()
        self._port = self._ports.next()
        ca = write_loopback_certificate(folder / "tls")
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(folder / "tls" / "tls.crt", folder / "tls" / "tls.key")
        self.kubeconfig = readdressed(
            kubeconfig, folder / "proxy.kubeconfig", port=self._port, ca=ca
        )
        self._fault: Fault | None = None
        self._everything = False
        self._open: set[asyncio.Task[None]] = set()
        self._background = Background()
        self._background.run(self._start())

    def close(self) -> None:
        """Pass nothing on any longer."""
        self._background.run(self._stop())
        self._background.close()
        self._ports.close()

    def break_watches(self, fault: Fault) -> None:
        """Answer every watch by `fault`; those that are open end."""
        self._background.run(self._break(fault, everything=False))

    def break_everything(self, fault: Fault) -> None:
        """Answer every request by `fault`; watches that are open end."""
        self._background.run(self._break(fault, everything=True))

    def restore(self) -> None:
        """Pass everything on."""
        self._fault = None

    async def cut_in_a_line(self, request: web.Request) -> web.StreamResponse:
        """A fault: what the API server tells is cut in the middle of its first line."""
        async with self._asked(request) as answer:
            response = await _begun(request, answer)
            line = await answer.content.readline()
            await response.write(line[: len(line) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _start(self) -> None:
        # Watches stay silent for long, and lines may have any length.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trusting),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=_LARGEST_BODY,
            auto_decompress=False,
        )
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()

    async def _stop(self) -> None:
        await self._end_watches()
        await self._runner.cleanup()
        await self._session.close()

    async def _break(self, fault: Fault, *, everything: bool) -> None:
        self._fault, self._everything = fault, everything
        await self._end_watches()

    async def _end_watches(self) -> None:
        for watch in self._open:
            watch.cancel()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        watches = request.query.get("watch") == "1"
        self.requests[request.path + ("?watch" if watches else "")] += 1
        if self._fault and (watches or self._everything):
            return await self._fault(request)
        async with self._asked(request) as answer:
            response = await _begun(request, answer)
            passing_on = asyncio.create_task(_pass_on(answer, response))
            if watches:
                self._open.add(passing_on)
            try:
                # Not by awaiting it: it is cancelled where the watch is to end, and well.
                await asyncio.wait([passing_on])
            finally:
                self._open.discard(passing_on)
                passing_on.cancel()
        return response

    def _asked(self, request: web.Request) -> aiohttp.client._RequestContextManager:
        return self._session.request(
            request.method,
            self._api_server + request.path_qs,
            headers=_own(request.headers),
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        )


async def gone(request: web.Request) -> web.StreamResponse:
    """410 by status."""
    return web.json_response(_status(410, "Expired"), status=410)


async def gone_inside(request: web.Request) -> web.StreamResponse:
    """410 as an event of a stream that began well."""
    event = {"type": "ERROR", "object": _status(410, "Expired")}
    return web.Response(text=json.dumps(event) + "\n", content_type="application/json")


async def ended(request: web.Request) -> web.StreamResponse:
    """A stream that ends at once."""
    return web.Response(content_type="application/json")


async def too_many(request: web.Request) -> web.StreamResponse:
    """429, which asks for a second's patience."""
    status = _status(429, "TooManyRequests")
    return web.json_response(status, status=429, headers={"Retry-After": "1"})


async def html(request: web.Request) -> web.StreamResponse:
    """500 in the language of some proxy before the API server."""
    page = "<html><h1>Internal error</h1>upstream apiserver.internal:6443</html>"
    return web.Response(status=500, text=page, content_type="text/html")


def _status(code: int, reason: str) -> dict[str, object]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code} | {
        "reason": reason,
        "message": reason,
    }


async def _begun(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=_own(answer.headers))
    await response.prepare(request)
    return response


async def _pass_on(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    # Either side may leave.
    with suppress(aiohttp.ClientError, ConnectionError):
        async for chunk in answer.content.iter_any():
            await response.write(chunk)


def _own(headers: object) -> dict[str, str]:
    return {k: v for k, v in dict(headers).items() if k.lower() not in _HOP_BY_HOP}  # type: ignore[call-overload]
