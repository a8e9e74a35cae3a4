"""Find out why a server closes connections before it has ever answered: gRPC does not say."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from urllib.parse import unquote

from modelservice_client.core.errors import SPEAKS_TLS, ModelServiceError, NotReachable
from modelservice_client.credentials import ChannelSpec

_PROBE_SECONDS = 2.0
# gRPC's words for a new connection that the server has ended, after the address.
_CLOSED = re.compile(
    r"failed to connect to all addresses.*last error: \w+: ipv[46]:(\S+):(\d+):"
    r" (Socket closed|recvmsg:Connection reset|Unwrap failed|Failed parsing HTTP/2)",
    re.DOTALL,
)


class _FirstContact:
    """Whether the server of a channel has ever `answered`, and why it does not.

    In TLS the texts of `_CLOSED` are those of connections whose handshake was complete. In
    plaintext a server with TLS closes connections, as others do that start or stop: a handshake
    shows which it is. There is one handshake for all calls of a channel, and none once a server has
    answered. A call waits for its end at most as long as its attempt may take.
    """

    def __init__(self, spec: ChannelSpec) -> None:
        self.answered = False
        self._tls = spec.credentials is not None

    def _closed_in_plaintext(self, error: ModelServiceError) -> tuple[str, int] | None:
        """Return the host and port of a first connection in plaintext that the server closed."""
        if not isinstance(error, NotReachable):
            self.answered = True
        if self.answered:
            return None
        closed = _CLOSED.search(error.message)
        if closed and self._tls and isinstance(error, NotReachable):
            error.closed_after_handshake = True
        if not closed or self._tls:
            return None
        return unquote(closed[1]).strip("[]"), int(closed[2])

    def _explained(self, error: ModelServiceError, speaks_tls: bool) -> ModelServiceError:
        if self.answered or not speaks_tls:
            return error
        return NotReachable(f"{error.message}; {SPEAKS_TLS}", code=error.code)


class BlockingFirstContact(_FirstContact):
    """The first contact of a blocking channel. A thread of its own does the handshake."""

    def __init__(self, spec: ChannelSpec) -> None:
        super().__init__(spec)
        self._starting = threading.Lock()
        self._started = False
        # Set at the end of the handshake, and when the client is closed.
        self._ended = threading.Event()
        self._speaks_tls = False

    def explain(self, error: ModelServiceError, seconds: float) -> ModelServiceError:
        """Return the error with what is known of its cause, within `seconds`."""
        address = self._closed_in_plaintext(error)
        if not address:
            return error
        with self._starting:
            if not self._started:
                self._started = True
                threading.Thread(
                    target=self._probe, args=address, name="modelservice-tls-probe", daemon=True
                ).start()
        self._ended.wait(max(min(seconds, _PROBE_SECONDS), 0.0))
        return self._explained(error, self._speaks_tls)

    def close(self) -> None:
        """End the waiting for the handshake."""
        self._ended.set()

    def _probe(self, host: str, port: int) -> None:
        try:
            self._speaks_tls = asyncio.run(_speaks_tls(host, port))
        finally:
            self._ended.set()


class AsyncFirstContact(_FirstContact):
    """The first contact of an asyncio channel. A task of its own does the handshake."""

    def __init__(self, spec: ChannelSpec) -> None:
        super().__init__(spec)
        self._probe: asyncio.Task[bool] | None = None

    async def explain(self, error: ModelServiceError, seconds: float) -> ModelServiceError:
        """Return the error with what is known of its cause, within `seconds`."""
        address = self._closed_in_plaintext(error)
        if not address:
            return error
        if self._probe is None:
            self._probe = asyncio.create_task(_speaks_tls(*address))
        if not self._probe.done():
            await asyncio.wait((self._probe,), timeout=max(min(seconds, _PROBE_SECONDS), 0.0))
        known = self._probe.done() and not self._probe.cancelled()
        return self._explained(error, known and self._probe.result())

    def close(self) -> None:
        """End the handshake."""
        if self._probe:
            self._probe.cancel()


async def _speaks_tls(host: str, port: int) -> bool:
    """Return whether a handshake is understood; nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="")
    except ssl.SSLError as error:
        # An alert is TLS too, such as the one that asks for a client certificate.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    # A good end would wait for that of the server.
    writer.transport.abort()
    return True
