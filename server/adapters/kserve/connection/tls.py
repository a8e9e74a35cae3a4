"""How the API server is verified, and the client certificate shown to it."""

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
    ca: bytes, *, insecure: bool, at: str, certificate: tuple[bytes, bytes] | None = None
) -> ssl.SSLContext:
    """Make a context that verifies as Go does; `ca` empty: by the system's certificates.

    `certificate` has a client certificate and its key. `at` names the cluster in messages.
    Raises ConfigurationUnusable. It takes milliseconds, so not on the event loop.
    """
    context = _verifying(ca, at)
    # Go asks for no strict profile, which the certificates of API servers often fail, takes any
    # certificate that is given as a root, and looks at no common name.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        _load(context, certificate)
    return context


def _verifying(ca: bytes, at: str) -> ssl.SSLContext:
    if not ca:
        return ssl.create_default_context()
    certificates = b"\n".join(_CERTIFICATE.findall(ca)).decode("ascii", "replace")
    problem = ConfigurationUnusable(f"{at}.certificate-authority: must have PEM certificates")
    if not certificates:
        raise problem  # not to be verified by the system's instead
    try:
        return ssl.create_default_context(cadata=certificates)
    except (ssl.SSLError, ValueError) as e:
        raise problem from e


class CertificateUnusable(Exception):
    """A client certificate or its key is none, or they do not fit."""


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
    """A file for the length of a block: ssl reads keys from files only."""
    if sys.platform == "linux":
        # In memory, since a container may have no folder to write to.
        with open(os.memfd_create("client-certificate"), "wb") as file:  # noqa: PTH123
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
