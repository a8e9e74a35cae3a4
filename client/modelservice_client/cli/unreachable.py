"""Put errors about connections and credentials into words: the cause, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from modelservice_client import ModelServiceError, NotReachable
from modelservice_client.cli.text import one_line
from modelservice_client.core.errors import REFUSING_ALERTS, SPEAKS_TLS

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
        "certificate has expired",
        "its certificate has expired",
        "The server's certificate must be renewed, or the clock of this machine set.",
    ),
    (
        "certificate is not yet valid",
        "its certificate is not valid yet",
        "Set the clock of this machine, or of the one that made the certificate.",
    ),
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
    (
        SPEAKS_TLS,
        "it uses TLS",
        "Leave out --plaintext, or give --tls for an address of this machine.",
    ),
    *(
        (
            alert,
            "it refuses the TLS handshake",
            "Give a client certificate that it takes, with --cert and --key.",
        )
        for alert in REFUSING_ALERTS
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
    closed the connection of an attempt.
    """

    address: str = ""
    tls: bool = True
    certificate: bool = False
    token: bool = False
    heard: bool = False
    closed: bool = False

    def note(self, error: NotReachable) -> None:
        """Take note of an attempt that was not answered."""
        self.closed = self.closed or _CLOSED in _raw(error)

    def describe(self, error: NotReachable) -> str:
        """Return which server does not answer, for how long, and why."""
        tried = f", tried for {error.silence:.0f} s" if error.silence >= 1 else ""
        at = self.address
        problem = f"{at} has stopped answering" if self.heard else f"no server answers at {at}"
        return f"{problem}{tried}: {cause_of(error)}"

    def remedy_of(self, error: NotReachable) -> str:
        """Return what to do about it; empty where it is unknown.

        A server that closes connections comes first: some attempts of a wrong handshake end with
        other errors, such as one of the next address of its name.
        """
        self.note(error)
        if error.closed_after_handshake:
            return f"{self._certificate_remedy()} Behind a proxy, check that the server runs."
        if self.heard or not self.closed or error.tls_remedy:
            return _found(error)[1]
        if not self.tls:
            return (
                "If it uses TLS, leave out --plaintext, or give --tls for an address of this"
                " machine."
            )
        return self._certificate_remedy()

    def _certificate_remedy(self) -> str:
        if not self.certificate:
            return "If its port takes client certificates only, give --cert and --key."
        return (
            "Check that its port takes this client certificate: it must be of a CA that the server"
            " trusts, and not expired."
        )

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


def cause_of(error: ModelServiceError) -> str:
    """Return why no server was reached; gRPC's own text where it is unknown."""
    return _found(error)[0]


def _found(error: ModelServiceError) -> tuple[str, str]:
    if isinstance(error, NotReachable) and error.closed_after_handshake:
        return "it closes the connection after the TLS handshake", ""
    raw = _raw(error)
    for text, cause, remedy in _CAUSES:
        if text in raw:
            return cause, remedy
    return one_line(raw), ""


def _raw(error: ModelServiceError) -> str:
    cause = error.__cause__
    return cause.message if isinstance(cause, ModelServiceError) else error.message
