"""One HTTP client of the Kubernetes API server: raw paths, raw JSON, no typed models.

`connection` reads which API server and as whom; the requests go straight to aiohttp, whose errors
distinguish "never connected" from "sent, and no answer".
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from server.adapters.bounded_read import TooLarge, read_at_most
from server.adapters.kserve.connection.connection import Connection, open_kubeconfig, open_pod
from server.adapters.kserve.connection.credentials import Access
from server.deadline import Deadline

CONNECT_TIMEOUT = 1.5
# How long a watch waits for credentials to be renewed; a request does so within its own timeout.
RENEWAL_PATIENCE = 10.0
# A peer that is gone is noticed after idle + interval * count = 15 s, also by a silent watch.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000}
_LEAST_TIME = 0.001
READ_SIZE = 2**20
# A page of 500 objects of half a megabyte each.
MOST_OF_ANSWER = 2**28
_ESCAPED_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class Unreachable(Exception):
    """No connection within CONNECT_TIMEOUT, or refused: nothing was sent. Its text has the cause,
    for operators."""


class NoCredentials(Unreachable):
    """The API server takes none of the credentials that there are: nothing was done.

    Its text says whether they have ended or are refused (a 401), for operators.
    """

    def __init__(self, why: str, *, refused: bool) -> None:
        super().__init__(why)
        self.refused = refused


class Unanswered(Exception):
    """Sent, and not answered in time, or the answer was cut or too large: it may have taken
    effect."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said, whatever the status.

    A body that is not a JSON object comes as `{"message": <its first 200 characters>}`.
    """

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def ok(self) -> bool:
        """A 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class ApiServer:
    """The API server as this process may use it. `connect` opens it, `close` closes it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket_with_keepalive)
        self._session = aiohttp.ClientSession(
            connector=connector,
            read_bufsize=READ_SIZE,
            headers=_HEADERS,
            # A cookie would be an identity beside the one that is configured.
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @classmethod
    async def connect(
        cls,
        kubeconfig: str = "",
        *,
        in_cluster: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> ApiServer:
        """Read the credentials; no request is sent yet.

        `kubeconfig` has one path, or several as $KUBECONFIG may; its current context is used and a
        credential plugin is run. `environment` is where proxies are named, and what plugins get.
        Raises ConfigurationUnusable.
        """
        if in_cluster:
            return cls(await open_pod(environment))
        paths = [Path(path) for path in kubeconfig.split(os.pathsep) if path]
        return cls(await open_kubeconfig(paths, environment))

    async def close(self) -> None:
        """Close every connection, open watches included."""
        await self._connection.credentials.close()
        await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: float,  # noqa: ASYNC109 (aiohttp's own tells connecting from waiting)
    ) -> Answer:
        """Send one request and read its whole answer within `timeout` seconds.

        Raises Unreachable (NoCredentials is one, also for a 401) or Unanswered; every other answer
        is returned, also those that refuse.
        """
        deadline = Deadline.after(timeout)

        def limits() -> aiohttp.ClientTimeout:
            # For aiohttp 0 is no limit at all.
            left = deadline.left(_LEAST_TIME)
            return aiohttp.ClientTimeout(total=left, connect=min(CONNECT_TIMEOUT, left))

        data = None if body is None else _encoded(body)
        headers = {} if body is None else {"Content-Type": content_type}
        request = {"params": query, "data": data, "headers": headers}
        async with self._request(method, path, request, limits, deadline) as response:
            content = await read_at_most(response, MOST_OF_ANSWER)
            return Answer(response.status, response.headers, _json(content))

    @asynccontextmanager
    async def open_stream(
        self, path: str, query: Mapping[str, str], *, idle_timeout: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a GET whose answer is read as it comes, as a watch's is; its status may be any.

        Raises Unreachable, or Unanswered when it is cut or silent for `idle_timeout` seconds,
        also out of the block that reads it.
        """
        limits = aiohttp.ClientTimeout(connect=CONNECT_TIMEOUT, sock_read=idle_timeout)
        renewed_by = Deadline.after(RENEWAL_PATIENCE)
        request = {"params": query}
        async with self._request("GET", path, request, lambda: limits, renewed_by) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        request: dict[str, Any],
        limits: Callable[[], aiohttp.ClientTimeout],
        renewed_by: Deadline,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and once more with other credentials where it is refused with a 401.

        `limits` are asked for each time; `renewed_by` is until when credentials are waited for.
        """
        with _foreign_errors_translated():
            access = await self._usable(renewed_by)
            async with await self._start(access, method, path, request, limits()) as response:
                if response.status != HTTPStatus.UNAUTHORIZED:
                    yield response
                    return
            # A 401 was not acted upon, so that asking again is safe, a write too.
            others = await self._connection.credentials.renewed(access, renewed_by.left())
            if not others or renewed_by.expired:
                raise _refused()
            access = await self._usable(renewed_by)
            async with await self._start(access, method, path, request, limits()) as response:
                if response.status == HTTPStatus.UNAUTHORIZED:
                    raise _refused()
                yield response

    async def _usable(self, renewed_by: Deadline) -> Access:
        access = await self._connection.credentials.current(renewed_by.left())
        # With no time left its answer could not be waited for.
        if access is None or renewed_by.expired:
            raise NoCredentials("the credentials for the API server have ended", refused=False)
        return access

    async def _start(
        self,
        access: Access,
        method: str,
        path: str,
        request: dict[str, Any],
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = [*request.get("headers", {}).items(), *self._connection.headers]
        if access.identity.authorization:
            headers.append(("Authorization", access.identity.authorization))
        return await self._session.request(
            method,
            self._connection.server + path,
            ssl=access.tls or True,
            server_hostname=self._connection.tls_server_name or None,
            proxy=self._connection.proxy,
            allow_redirects=False,
            timeout=limits,
            **{**request, "headers": headers},
        )


# Watches must not wait in a compressor's buffer, and lists are faster uncompressed nearby.
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "modelservice",
}


def _refused() -> NoCredentials:
    return NoCredentials("the API server refuses our credentials", refused=True)


@contextmanager
def _foreign_errors_translated() -> Iterator[None]:
    try:
        yield
    # A proxy refuses before it passes anything on.
    except (
        aiohttp.ConnectionTimeoutError,
        aiohttp.ClientConnectorError,
        aiohttp.ClientHttpProxyError,
    ) as e:
        raise Unreachable(_cause(e)) from e
    except (aiohttp.ClientError, TimeoutError, OSError, TooLarge) as e:
        raise Unanswered(_cause(e)) from e


def _cause(error: Exception) -> str:
    """What kept an answer away, for operators; the address is in their kubeconfig."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=refused):
            why = getattr(refused, "verify_message", "") or type(refused).__name__
            return f"its certificate is not trusted: {why}"
        case aiohttp.ClientConnectorDNSError():
            return "its name does not resolve"
        case aiohttp.ClientHttpProxyError(status=status):
            return f"the proxy refuses with {status}"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy cannot be reached"
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {CONNECT_TIMEOUT:g} s"
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number))) if number > 0:
            return os.strerror(number)
    return type(error).__name__


def _encoded(body: Mapping[str, Any]) -> bytes:
    """JSON that is YAML as well, as which Kubernetes reads an apply.

    YAML takes no escaped surrogates, and escapes where JSON may have the character itself.
    """
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return _ESCAPED_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        return body
    return {"message": content[:800].decode(errors="replace")[:200]}


def _socket_with_keepalive(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # not every system has each of them
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return opened
