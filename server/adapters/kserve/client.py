"""The HTTP client of the Kubernetes API server: raw paths, raw JSON, no typed models.

`connection` has the API server's address and the credentials. The requests go to aiohttp itself,
whose errors distinguish "never connected" from "sent, and no answer".
"""

from __future__ import annotations

import asyncio
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
import msgspec

from server.adapters.bounded_read import TooLarge, read_at_most
from server.adapters.kserve.connection.connection import (
    Connection,
    open_in_cluster,
    open_kubeconfig,
)
from server.adapters.kserve.connection.credentials import Access
from server.adapters.kserve.warning_headers import warning_texts
from server.deadline import Deadline

CONNECT_TIMEOUT = 1.5
# How long a watch waits for renewed credentials; a request waits within its own timeout.
RENEWAL_TIMEOUT = 10.0
# A dead peer is noticed after idle + interval * count = 15 s, also by a silent watch.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000}
_LEAST_TIME = 0.001
READ_SIZE = 2**20
# A page of 500 objects of half a megabyte each.
LARGEST_ANSWER = 2**28
MOST_LISTS = 2
_ESCAPED = re.compile("[<>&\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class Unreachable(Exception):
    """No connection within CONNECT_TIMEOUT, or a refused one: nothing was sent.

    The text has the cause, for operators.
    """


class NoCredentials(Unreachable):
    """The credentials have expired, or the API server refuses them (a 401): nothing was done.

    The text has the cause, for operators.
    """

    def __init__(self, why: str, *, refused: bool) -> None:
        super().__init__(why)
        self.refused = refused


class Unanswered(Exception):
    """The request was sent, and its answer was late, cut or too large: it may have had effect."""


class AnswerTooLarge(Unanswered):
    """The answer is larger than its reader takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The API server's answer, of any status.

    A body that is not a JSON object comes as `{"message": <its first 200 characters>}`.
    `warnings`: the texts of its Warning headers.
    """

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """A 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


@dataclass(frozen=True, slots=True)
class Content:
    """The API server's answer, of any status, with its body as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray

    def answer(self) -> Answer:
        """Return the answer with its body parsed where it is an error."""
        ok = self.status == HTTPStatus.OK
        return Answer(self.status, self.headers, {} if ok else _decode(self.body))


class ApiServer:
    """The API server; `connect` opens it, `close` closes it.

    `lists` limits the lists and the pages of lists that are read at once.
    """

    def __init__(self, connection: Connection) -> None:
        self.lists = asyncio.Semaphore(MOST_LISTS)
        self._connection = connection
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket_with_keepalive)
        self._session = aiohttp.ClientSession(
            connector=connector,
            read_bufsize=READ_SIZE,
            headers=_HEADERS,
            # A cookie could be a second identity beside the configured one.
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

        `kubeconfig` has one path, or several as $KUBECONFIG may. Its current context is used, and
        its credential plugin runs, with `environment`, which also names the proxies. Raises
        ConfigurationUnusable.
        """
        if in_cluster:
            return cls(await open_in_cluster(environment))
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
        accept: str = "application/json",
        timeout: float,  # noqa: ASYNC109 (aiohttp has separate timeouts for connecting and waiting)
    ) -> Answer:
        """Send one request and read its whole answer within `timeout` seconds.

        Raises Unreachable (also NoCredentials, for a 401) or Unanswered. Every other answer is
        returned, errors too.
        """
        deadline = Deadline.after(timeout)

        data = None if body is None else _encode(body)
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        request = {"params": query, "data": data, "headers": headers}
        async with self._request(
            method, path, request, _limits_until(deadline), deadline
        ) as response:
            content = await read_at_most(response, LARGEST_ANSWER)
            warnings = tuple(warning_texts(response.headers.getall("Warning", ())))
            return Answer(response.status, response.headers, _decode(content), warnings)

    async def read(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        most: int,
        accept: str = "application/json",
        timeout: float,  # noqa: ASYNC109 (as above)
    ) -> Content:
        """Read a path as `send` does, and leave the answer's body of at most `most` bytes unparsed.

        Raises AnswerTooLarge for a larger one.
        """
        async with self.open_answer(path, query, accept=accept, timeout=timeout) as response:
            content = await read_at_most(response, most)
            return Content(response.status, response.headers, content)

    @asynccontextmanager
    async def open_answer(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        accept: str = "application/json",
        timeout: float,  # noqa: ASYNC109 (as above)
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a GET whose answer, of any status, is read as it arrives, within `timeout` seconds.

        Raises as `send` does, also while the caller reads it, and AnswerTooLarge for its TooLarge.
        """
        deadline = Deadline.after(timeout)
        request = {"params": query, "headers": {"Accept": accept}}
        limits = _limits_until(deadline)
        async with self._request("GET", path, request, limits, deadline) as response:
            yield response

    @asynccontextmanager
    async def open_stream(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        idle_timeout: float,
        accept: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a GET whose answer is read as it arrives, such as a watch; its status may be any.

        Raises Unreachable, or Unanswered when it is cut or silent for `idle_timeout` seconds,
        also while the caller reads it.
        """
        limits = aiohttp.ClientTimeout(connect=CONNECT_TIMEOUT, sock_read=idle_timeout)
        renewed_by = Deadline.after(RENEWAL_TIMEOUT)
        request = {"params": query, "headers": {"Accept": accept}}
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
        """Send a request, and after a 401 once more with renewed credentials.

        `limits` is called for each of them; `renewed_by` limits the wait for credentials.
        """
        with _translated_errors():
            access = await self._current_access(renewed_by)
            async with await self._start(access, method, path, request, limits()) as response:
                if response.status != HTTPStatus.UNAUTHORIZED:
                    yield response
                    return
            # The API server did not act on it, so a write can be sent again too.
            renewed = await self._connection.credentials.renewed(access, renewed_by.left())
            if not renewed or renewed_by.expired:
                raise _refused()
            access = await self._current_access(renewed_by)
            async with await self._start(access, method, path, request, limits()) as response:
                if response.status == HTTPStatus.UNAUTHORIZED:
                    raise _refused()
                yield response

    async def _current_access(self, renewed_by: Deadline) -> Access:
        access = await self._connection.credentials.current(renewed_by.left())
        # Without time left the answer would be too late.
        if access is None or renewed_by.expired:
            raise NoCredentials("the credentials for the API server have expired", refused=False)
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
    "Accept-Encoding": "identity",
    "User-Agent": "modelservice",
}


def _limits_until(deadline: Deadline) -> Callable[[], aiohttp.ClientTimeout]:
    def limits() -> aiohttp.ClientTimeout:
        # aiohttp takes 0 for no limit.
        left = deadline.left(_LEAST_TIME)
        return aiohttp.ClientTimeout(total=left, connect=min(CONNECT_TIMEOUT, left))

    return limits


def _refused() -> NoCredentials:
    return NoCredentials("the API server refuses our credentials", refused=True)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    # A proxy refuses before it forwards anything.
    except (
        aiohttp.ConnectionTimeoutError,
        aiohttp.ClientConnectorError,
        aiohttp.ClientHttpProxyError,
    ) as e:
        raise Unreachable(_cause(e)) from e
    except TooLarge as e:
        raise AnswerTooLarge(_cause(e)) from e
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        raise Unanswered(_cause(e)) from e


def _cause(error: Exception) -> str:
    """Return the cause for operators, without the address, which is in their kubeconfig."""
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


def _encode(body: Mapping[str, Any]) -> bytes:
    """Encode JSON that is valid YAML too: Kubernetes parses an apply as YAML.

    YAML allows no escaped surrogates, and requires escapes that JSON does not. The API server keeps
    the data of a ControllerRevision as it was sent, and refuses every later patch if Go's encoder,
    which escapes <, > and &, would write it differently.
    """
    text = msgspec.json.encode(body).decode()
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _decode(content: bytes | bytearray) -> dict[str, Any]:
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
