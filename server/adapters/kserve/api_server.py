"""One HTTP client of the Kubernetes API server: raw paths, raw JSON, no typed models.

The addresses and credentials come from the Kubernetes client's own configuration loaders; the
requests go straight to aiohttp, which tells "never connected" from "sent, and no answer".
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import structlog
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

CONNECT_TIMEOUT = 1.5
RELOAD_CREDENTIALS_EVERY = 5.0
# A peer that is gone is noticed after idle + interval * count = 15 s, also by a silent watch.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000}
READ_SIZE = 2**20
_ESCAPED_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

log = structlog.get_logger(__name__)


class ConfigurationUnusable(Exception):
    """No kubeconfig and no pod's credentials that could be used; the message is for operators."""


class Unreachable(Exception):
    """No connection within CONNECT_TIMEOUT, or refused: nothing was sent."""


class Unanswered(Exception):
    """Sent, and not answered in time, or the answer was cut: it may have taken effect."""


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


@dataclass(frozen=True, slots=True)
class _Access:
    """Where the API server is and who we are to it."""

    configuration: Configuration
    tls: ssl.SSLContext

    async def authorization(self) -> str | None:
        """The header's value; a pod's own token is read again each minute, since it rotates."""
        value: str | None = await self.configuration.get_api_key_with_prefix(
            "BearerToken", alias="authorization"
        )
        return value


class ApiServer:
    """The API server as this process may use it. `connect` opens it, `close` closes it."""

    def __init__(self, access: _Access, reload: Callable[[], Awaitable[_Access]]) -> None:
        self._access = access
        self._reload = reload
        self._reloaded_at = time.monotonic()
        self._reloading = asyncio.Lock()
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket_with_keepalive)
        self._session = aiohttp.ClientSession(
            connector=connector, read_bufsize=READ_SIZE, headers=_HEADERS
        )

    @classmethod
    async def connect(cls, kubeconfig: str | None = None, *, in_cluster: bool = False) -> ApiServer:
        """Read the credentials; no request is sent yet.

        `kubeconfig` None means $KUBECONFIG, then ~/.kube/config, with its current context; exec
        plugins are run. Raises ConfigurationUnusable.
        """

        async def load() -> _Access:
            return await _load(kubeconfig, in_cluster)

        return cls(await load(), load)

    async def close(self) -> None:
        """Close every connection, open watches included."""
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

        Raises Unreachable or Unanswered; every answer is returned, also those that refuse.
        """
        limits = aiohttp.ClientTimeout(total=timeout, connect=min(CONNECT_TIMEOUT, timeout))
        data = None if body is None else _encoded(body)
        headers = {} if body is None else {"Content-Type": content_type}
        request = {"params": query, "data": data, "headers": headers, "timeout": limits}
        async with self._request(method, path, request) as response:
            return Answer(response.status, response.headers, _json(await response.read()))

    @asynccontextmanager
    async def open_stream(
        self, path: str, query: Mapping[str, str], *, idle_timeout: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a GET whose answer is read as it comes, as a watch's is; its status may be any.

        Raises Unreachable, or Unanswered when it is cut or silent for `idle_timeout` seconds,
        also out of the block that reads it.
        """
        limits = aiohttp.ClientTimeout(connect=CONNECT_TIMEOUT, sock_read=idle_timeout)
        async with self._request("GET", path, {"params": query, "timeout": limits}) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, request: dict[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        with _foreign_errors_translated():
            access = self._access
            response = await self._start(access, method, path, request)
            # A 401 was not acted upon, so that asking again is safe, a write too.
            if response.status == HTTPStatus.UNAUTHORIZED and await self._renewed(access):
                response.close()
                response = await self._start(self._access, method, path, request)
            async with response:
                yield response

    async def _start(
        self, access: _Access, method: str, path: str, request: dict[str, Any]
    ) -> aiohttp.ClientResponse:
        configuration = access.configuration
        headers = dict(request.get("headers", {}))
        if authorization := await access.authorization():
            headers["Authorization"] = authorization
        return await self._session.request(
            method,
            configuration.host + path,
            ssl=access.tls,
            server_hostname=configuration.tls_server_name or None,
            proxy=configuration.proxy or None,
            allow_redirects=False,
            **{**request, "headers": headers},
        )

    async def _renewed(self, refused: _Access) -> bool:
        """Read the credentials again after a 401; False where that can bring nothing new."""
        async with self._reloading:
            if self._access is not refused:
                return True
            if time.monotonic() - self._reloaded_at < RELOAD_CREDENTIALS_EVERY:
                return False
            self._reloaded_at = time.monotonic()
            try:
                self._access = await self._reload()
            except ConfigurationUnusable as e:
                # The loader's words may hold what a credential plugin printed.
                log.warning("credentials could not be read again", error=type(e).__name__)
                return False
            return True


# Watches must not wait in a compressor's buffer, and lists are faster uncompressed nearby.
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "modelservice",
}


async def _load(kubeconfig: str | None, in_cluster: bool) -> _Access:
    configuration = Configuration()
    # As client-go does: the API server's own certificates often fail the strict profile.
    configuration.disable_strict_ssl_verification = True
    try:
        if in_cluster:
            kube_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        else:
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                kubeconfig, client_configuration=configuration, persist_config=False
            )
        return _Access(configuration, RESTClientObject(configuration).ssl_context)
    # The loader meets a malformed file with whatever its parts raise.
    except Exception as e:
        source = "the pod's service account" if in_cluster else f"kubeconfig {kubeconfig or ''}"
        raise ConfigurationUnusable(f"{source.strip()} cannot be used: {e}") from e


@contextmanager
def _foreign_errors_translated() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as e:
        raise Unreachable(type(e).__name__) from e
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        raise Unanswered(type(e).__name__) from e


def _encoded(body: Mapping[str, Any]) -> bytes:
    """JSON that is YAML as well, as which Kubernetes reads an apply.

    YAML takes no escaped surrogates, and escapes where JSON may have the character itself.
    """
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return _ESCAPED_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
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
