"""Make the TLS context that verifies the API server and presents the client certificate."""

from __future__ import annotations

import os
import re
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable

_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(
    b"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL
)


def tls_context(
    ca: bytes, *, insecure: bool, field_path: str, certificate: tuple[bytes, bytes] | None = None
) -> ssl.SSLContext:
    """Make a context that verifies as Go does; with the system's certificates if `ca` is empty.

    `certificate` has a client certificate and its key. `field_path` names the cluster in messages.
    Raises ConfigurationUnusable. It takes milliseconds: keep it off the event loop.
    """
    context = _verifying(ca, field_path)
    # Go accepts certificates that fail the strict profile, as those of API servers often do. It
    # takes every given certificate as a root, and ignores common names.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        _load(context, certificate)
    return context


def _verifying(ca: bytes, field_path: str) -> ssl.SSLContext:
    if not ca:
        return ssl.create_default_context()
    certificates = b"\n".join(_CERTIFICATE.findall(ca)).decode("ascii", "replace")
    problem = ConfigurationUnusable(
        f"{field_path}.certificate-authority: must have PEM certificates"
    )
    if not certificates:
        raise problem  # otherwise the system's certificates would verify it
    try:
        return ssl.create_default_context(cadata=certificates)
    except (ssl.SSLError, ValueError) as e:
        raise problem from e


class CertificateUnusable(Exception):
    """A client certificate or its key cannot be parsed, or they do not match."""


def _load(context: ssl.SSLContext, certificate: tuple[bytes, bytes]) -> None:
    def refuse_password() -> str:
        raise CertificateUnusable

    pem, key = certificate
    found = _KEY.search(key)
    blocks = [*_CERTIFICATE.findall(pem), found[0] if found else b""]
    try:
        with _as_file(b"\n".join(blocks)) as path:
            context.load_cert_chain(path, password=refuse_password)
    except (ssl.SSLError, CertificateUnusable) as e:
        raise CertificateUnusable("must be PEM, a certificate and its own unencrypted key") from e


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Write a file for the length of a block: ssl reads keys from files only."""
    if sys.platform == "linux":
        # In memory: a container may have no writable folder.
        with open(os.memfd_create("client-certificate"), "wb") as file:  # noqa: PTH123
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
