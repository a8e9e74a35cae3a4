"""The certificate in use: replaced while the server runs, and watched for its expiry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import cast

import grpc
import structlog

from server.api.transport.certificate import (
    Certificate,
    CertificateUnusable,
    Files,
    Paths,
    parse,
    read_files,
)
from server.api.transport.client_certificates import ClientCertificates
from server.followed_file import Followed

log = structlog.get_logger(__name__)

EXPIRES_SOON = timedelta(days=14)
_REMINDED_EVERY = timedelta(days=1)
# At the start files may be about to be replaced, one after the other.
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.2


def _now() -> datetime:
    return datetime.now(UTC)


class ServerCertificate(Followed[Files]):
    """The certificate of new connections. `load` it, then `follow` its files.

    Connections keep the certificate that they began with.
    """

    def __init__(self, paths: Paths, now: Callable[[], datetime] = _now) -> None:
        super().__init__()
        self._paths = paths
        self._now = now
        self._current: Certificate
        self._reminder: tuple[str, datetime] | None = None

    async def load(self) -> None:
        """Read the certificate. Raises CertificateUnusable."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await super().load()
                break
            except CertificateUnusable:
                if attempt == _ATTEMPTS:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)
        log.info("certificate loaded", **self._described())
        self._remind()

    def check(self) -> None:
        """Read the files once, and warn before the certificate in use expires."""
        super().check()
        self._remind()

    def credentials(self, clients: ClientCertificates | None = None) -> grpc.ServerCredentials:
        """Return credentials for one address of a listener; with `clients` it requires client
        certificates of their CAs.

        gRPC asks for a new certificate before each handshake, in a thread of its own. Each address
        has to be given each new one, so two addresses cannot share their credentials.
        """

        def current() -> tuple[Certificate, bytes | None]:
            return self._current, clients.authorities if clients else None

        given = current()

        def replacement() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given == (now := current()):
                return None
            given = now
            return _configuration(*given)

        # grpc's stubs leave None out, which it documents as "no change".
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", replacement)
        return grpc.dynamic_ssl_server_credentials(
            _configuration(*given), fetch, require_client_authentication=clients is not None
        )

    def _read(self) -> Files:
        return read_files(self._paths)

    def _use(self, content: Files) -> None:
        certificate = parse(content, self._paths, self._now())
        if self._judged is None:
            self._current = certificate
        elif certificate != self._current:
            self._current = certificate
            log.info("certificate replaced", **self._described())

    def _report(self, problem: str) -> None:
        log.error("certificate cannot be replaced", problem=problem, **self._described())

    def _remind(self) -> None:
        """Log the coming expiry once a day."""
        now = self._now()
        left = self._current.expires - now
        if left > EXPIRES_SOON:
            return
        event = "certificate expires soon" if left > timedelta(0) else "certificate has expired"
        if self._reminder:
            last, logged = self._reminder
            if last == event and now - logged < _REMINDED_EVERY:
                return
        self._reminder = event, now
        level = log.warning if left > timedelta(0) else log.error
        level(event, **self._described())

    def _described(self) -> dict[str, str]:
        """Return the log's fields of the certificate in use."""
        current = self._current
        return {"expires": current.expires.isoformat(), "sha256": current.sha256}


def _configuration(
    certificate: Certificate, authorities: bytes | None
) -> grpc.ServerCertificateConfiguration:
    pair = certificate.key, certificate.chain
    return grpc.ssl_server_certificate_configuration([pair], authorities)
