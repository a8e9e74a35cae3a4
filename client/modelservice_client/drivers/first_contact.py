"""Find out why a server closes connections before it has ever answered: gRPC does not say."""

from __future__ import annotations

import re
import socket
import ssl
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


class FirstContact:
    """Whether the server of a channel has ever `answered`, and why it does not."""

    def __init__(self, spec: ChannelSpec) -> None:
        self.answered = False
        self._tls = spec.credentials is not None

    def explain(self, error: ModelServiceError) -> ModelServiceError:
        """Return the error with what is known of its cause. Blocks for some seconds at most.

        In TLS these texts are those of connections whose handshake was complete. In plaintext a
        server with TLS closes connections, as others do that start or stop: a handshake shows which
        it is.
        """
        if not isinstance(error, NotReachable):
            self.answered = True
            return error
        closed = None if self.answered else _CLOSED.search(error.message)
        if closed and self._tls:
            error.closed_after_handshake = True
        elif closed and _speaks_tls(unquote(closed[1]).strip("[]"), int(closed[2])):
            return NotReachable(f"{error.message}; {SPEAKS_TLS}", code=error.code)
        return error


def _speaks_tls(host: str, port: int) -> bool:
    """Return whether a handshake is understood; nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), _PROBE_SECONDS) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except ssl.SSLError as error:
        # An alert is TLS too, such as the one that asks for a client certificate.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
