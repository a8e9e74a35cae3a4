"""The reverse proxy of a service, which outlives its model servers."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from datetime import timedelta
from enum import Enum, auto
from http import HTTPStatus
from typing import TypeVar

import aiohttp
from aiohttp import web
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from server.adapters.bounded_read import read_at_most
from server.adapters.local.proxy.port_allocator import HOST
from server.deadline import Deadline

# Shorter than the model servers' own (uvicorn: 5 s), so that none closes a connection just as a
# request is sent on it.
KEEPALIVE_SECONDS = 2.0
CONNECT_SECONDS = 5.0
# The wait for a caller: for its next request's headers, for more of a body, or until it reads more
# of an answer.
IDLE_SECONDS = 60.0
MOST_CONNECTIONS = 1000
MOST_HEADERS = 64
LONGEST_HEADER = 8 * 1024
# The size of a model server's answer to a probe.
MOST_OF_ANSWER = 2**16
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Length: 0\r\n\r\n"
)

_T = TypeVar("_T")


def _is_for_the_log(record: logging.LogRecord) -> bool:
    """Drop errors of requests that are not HTTP: they get a 400, and must not fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger(__name__)
_log.addFilter(_is_for_the_log)

# A client that sends no Host is no browser.
_OUR_NAMES = frozenset({"", HOST, "localhost"})
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class ProbeResult(Enum):
    """The result of a readiness probe; NOTHING also where another program answers."""

    NOTHING = auto()
    LOADING = auto()
    READY = auto()


class Upstream:
    """The HTTP client of one run of a model server. `close` it once it is `drained`."""

    def __init__(self, port: int, request_timeout: timedelta | None = None) -> None:
        self._origin = f"http://{HOST}:{port}"
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(
                total=request_timeout.total_seconds() if request_timeout else None,
                sock_connect=CONNECT_SECONDS,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def probe(self, server_name: str, ready_path: str) -> ProbeResult:
        """Ask whether the server of this name answers, and whether its model is ready."""
        try:
            async with self._get("/v2") as response:
                metadata = json.loads(await read_at_most(response, MOST_OF_ANSWER))
            if not isinstance(metadata, Mapping) or metadata.get("name") != server_name:
                return ProbeResult.NOTHING
            async with self._get(ready_path) as response:
                return (
                    ProbeResult.READY if response.status == HTTPStatus.OK else ProbeResult.LOADING
                )
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError):
            return ProbeResult.NOTHING

    def _get(self, path: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        origin = self._origin
        return self._session.get(f"{origin}{path}", timeout=PROBE_TIMEOUT, allow_redirects=False)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request for the length of a block."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def send(self, request: web.BaseRequest) -> aiohttp.ClientResponse:
        """Pass on a request, and stream its body.

        Raises aiohttp.ClientConnectorError or ConnectionTimeoutError if nothing was sent, and
        another aiohttp.ClientError or TimeoutError later.
        """
        return await self._session.request(
            request.method,
            URL(f"{self._origin}{request.rel_url.raw_path_qs}", encoded=True),
            headers=_end_to_end(request.headers),
            data=_body_of(request) if request.body_exists else None,
            allow_redirects=False,
        )

    async def drained(self, deadline: Deadline) -> None:
        """Wait until no request is in flight, or until the deadline."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline.at):
                await self._idle.wait()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


class Proxy:
    """Answers the requests on a listening socket by the current `upstream`.

    While `upstream` is None it answers 503 with the `unavailable_message`. A connection beyond
    MOST_CONNECTIONS gets a 503 too; one that is idle for IDLE_SECONDS is closed.
    """

    def __init__(self, unavailable_message: Callable[[], str]) -> None:
        self.upstream: Upstream | None = None
        self._unavailable_message = unavailable_message
        self._server: asyncio.Server | None = None
        self._connections = web.Server(
            self._answer,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            # It bounds the headers of a request too.
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
            logger=_log,
        )

    async def start(self, listening: socket.socket) -> None:
        """Answer requests from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connected, sock=listening)

    async def close(self, deadline: Deadline) -> None:
        """Stop listening, and let the requests in flight end until the deadline."""
        if self._server:
            self._server.close()
        self._connections.pre_shutdown()
        await self._connections.shutdown(deadline.left())

    def _connected(self) -> asyncio.Protocol:
        full = len(self._connections.connections) >= MOST_CONNECTIONS
        return _TooManyConnections() if full else self._connections()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if not request.rel_url.raw_path.startswith("/"):
            return web.Response(status=HTTPStatus.BAD_REQUEST)
        if not _is_loopback_name(request.headers.get("Host", "")):
            return _error(HTTPStatus.MISDIRECTED_REQUEST, "ask for 127.0.0.1 or localhost")
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(CONTINUE)
        # If nothing listened, nothing was sent, and a new server may be ready by now.
        for _ in range(2):
            upstream = self.upstream
            if upstream is None:
                break
            with upstream.in_flight():
                answer = await self._forward(request, upstream)
            if answer is not None:
                return answer
        return self._unavailable()

    async def _forward(
        self, request: web.BaseRequest, upstream: Upstream
    ) -> web.StreamResponse | None:
        """Return the upstream's answer, which is sent; None if it never got the request."""
        try:
            answer = await upstream.send(request)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return None
        except TimeoutError:
            return _error(HTTPStatus.GATEWAY_TIMEOUT, "no answer within spec.request_timeout")
        except aiohttp.ClientError:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "the model server closed the connection")
        async with answer:
            return await _relay(request, answer)

    def _unavailable(self) -> web.Response:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, self._unavailable_message())


class _TooManyConnections(asyncio.Protocol):
    """Refuses a connection beyond MOST_CONNECTIONS, before its request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(TOO_MANY)
        transport.close()


async def _body_of(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """Stream the body of a request."""
    while chunk := await _within_idle_timeout(request, request.content.readany()):
        yield chunk


async def _within_idle_timeout(request: web.BaseRequest, step: Awaitable[_T]) -> _T:
    """Await a step, and abort the connection if its caller is idle for IDLE_SECONDS."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            return await step
    except TimeoutError:
        if request.transport:
            request.transport.abort()
        raise


def _is_loopback_name(host: str) -> bool:
    """Report whether a Host is loopback: the DNS name of a web page may resolve to it."""
    name = host.rpartition(":")[0] or host
    return name.lower() in _OUR_NAMES


async def _relay(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    relayed = web.StreamResponse(
        status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers)
    )
    await relayed.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await _within_idle_timeout(request, relayed.write(chunk))
    except (aiohttp.ClientError, TimeoutError):
        # The status is sent already: only an aborted connection shows that the body is incomplete.
        if request.transport:
            request.transport.abort()
    return relayed


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers without those of one connection."""
    listed = headers.get("Connection", "").lower()
    dropped = _HOP_BY_HOP | {name.strip() for name in listed.split(",")}
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in dropped)


def _error(status: HTTPStatus, why: str) -> web.Response:
    return web.json_response({"error": why}, status=status, headers={"Retry-After": "1"})
