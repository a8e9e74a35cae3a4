"""Put errors about connections and credentials into words: the cause, and what to do about it."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

from modelservice_client import ModelServiceError, NotReachable
from modelservice_client.cli.text import one_line

_PROBE_SECONDS = 2.0
# gRPC's word for a server that ends a handshake without a reason.
_CLOSED = "Socket closed"
# Texts of gRPC's C core, the cause, and what to do. The first one that is found counts.
_CAUSES = (
    (
        "Connection refused",
        "connection refused",
        "Check the address, and that the server runs there.",
    ),
    ("errors resolving ", "its name cannot be resolved", "Check the address: it is host:port."),
    ("DNS resolution failed", "its name cannot be resolved", "Check the address: it is host:port."),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not trusted",
        "Give the CA of its certificate with --ca FILE.",
    ),
    (
        "Hostname Verification Check",
        "its certificate is for another name",
        "Give the name in its certificate with --server-name.",
    ),
    ("WRONG_VERSION_NUMBER", "it does not use TLS", "Give --plaintext, or another port."),
    ("Failed parsing HTTP/2", "it does not speak gRPC", "Check the port."),
    (_CLOSED, "it closed the connection", ""),
    ("Deadline Exceeded", "no answer in time", "Check that the server and its cluster are well."),
)


@dataclass
class Endpoint:
    """A server, how it is called, and how it behaved.

    `certificate`, `token`: the client has one. `heard`: the server has answered. `closed`: it has
    closed the connection of an attempt. `speaks_tls`: it does, though it is called in plaintext.
    """

    address: str = ""
    tls: bool = True
    certificate: bool = False
    token: bool = False
    heard: bool = False
    closed: bool = False
    speaks_tls: bool = False

    def note(self, error: NotReachable) -> None:
        """Take note of an attempt that was not answered."""
        self.closed = self.closed or _CLOSED in _raw(error)

    def never_answers(self, error: NotReachable) -> bool:
        """Return whether no further attempt can help after this one.

        A server with TLS closes connections in plaintext, as others do that start or stop. So a
        handshake shows which it is.
        """
        if self.closed and not self.tls and not self.heard and _CLOSED in _raw(error):
            self.speaks_tls = _speaks_tls(self.address)
        return self.speaks_tls

    def describe(self, error: NotReachable) -> str:
        """Return which server does not answer, for how long, and why."""
        tried = f", tried for {error.silence:.0f} s" if error.silence >= 1 else ""
        at = self.address
        problem = f"{at} has stopped answering" if self.heard else f"no server answers at {at}"
        cause = "it uses TLS" if self.speaks_tls else cause_of(error)
        return f"{problem}{tried}: {cause}"

    def remedy_of(self, error: NotReachable) -> str:
        """Return what to do about it; empty where it is unknown.

        A server that closes connections comes first: some attempts of a wrong handshake end with
        other errors, such as one of the next address of its name.
        """
        self.note(error)
        if self.speaks_tls:
            return "Leave out --plaintext, or give --tls for an address of this machine."
        if self.heard or not self.closed:
            return _found(error)[1]
        if not self.tls:
            return (
                "If it uses TLS, leave out --plaintext, or give --tls for an address of this"
                " machine."
            )
        if not self.certificate:
            return "If its port takes client certificates, give --cert and --key."
        return "Check that its port takes this client certificate."

    def credentials_remedy(self, error: ModelServiceError) -> str:
        """Return what to do where the server takes the call for one without credentials."""
        if error.reason != "UNAUTHENTICATED" or self.token:
            return ""
        if not self.certificate:
            return "Give a token with --token-file FILE."
        if "certificate" in error.message:
            return ""
        return (
            "Client certificates are taken at the port of MODELSERVICE_MTLS_LISTEN: give that port,"
            " or a token with --token-file FILE."
        )


def _speaks_tls(address: str) -> bool:
    """Return whether a handshake with a host:port succeeds; nothing is sent over it."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        suppress(OSError, ValueError),
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS) as plain,
        context.wrap_socket(plain),
    ):
        return True
    return False


def cause_of(error: ModelServiceError) -> str:
    """Return why no server was reached; gRPC's own text where it is unknown."""
    return _found(error)[0]


def _found(error: ModelServiceError) -> tuple[str, str]:
    raw = _raw(error)
    for text, cause, remedy in _CAUSES:
        if text in raw:
            return cause, remedy
    return one_line(raw), ""


def _raw(error: ModelServiceError) -> str:
    cause = error.__cause__
    return cause.message if isinstance(cause, ModelServiceError) else error.message
