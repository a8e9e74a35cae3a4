"""Put gRPC's errors about connections into words: the cause, and what to do about it."""

from __future__ import annotations

from modelservice_client import ModelServiceError, NotReachable
from modelservice_client.cli.text import one_line

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
    (
        "Socket closed",
        "it closed the connection",
        "If it uses TLS, leave out --plaintext, or give --tls for an address of this machine.",
    ),
    ("Deadline Exceeded", "no answer in time", "Check that the server and its cluster are well."),
)


def describe(error: NotReachable, server: str, heard: bool) -> str:
    """Return which server does not answer, for how long, and why."""
    tried = f", tried for {error.silence:.0f} s" if error.silence >= 1 else ""
    problem = f"{server} has stopped answering" if heard else f"no server answers at {server}"
    return f"{problem}{tried}: {cause_of(error)}"


def cause_of(error: ModelServiceError) -> str:
    """Return why no server was reached; gRPC's own text where it is unknown."""
    return _found(error)[0]


def remedy_of(error: ModelServiceError) -> str:
    """Return what to do about it; empty where it is unknown."""
    return _found(error)[1]


def _found(error: ModelServiceError) -> tuple[str, str]:
    raw = error.__cause__ if isinstance(error.__cause__, ModelServiceError) else error
    for text, cause, remedy in _CAUSES:
        if text in raw.message:
            return cause, remedy
    return one_line(raw.message), ""
