"""The certificate in use: replaced while the server runs, and watched for its expiry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
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

log = structlog.get_logger(__name__)

EVERY_SECONDS = 1.0
EXPIRES_SOON = timedelta(days=14)
_REMINDED_EVERY = timedelta(days=1)
# At the start files may be about to be replaced, one after the other.
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.2


def _now() -> datetime:
    return datetime.now(UTC)


class ServerCertificate:
    """The certificate of new connections. `load` it, then `follow` its files.

    Files that cannot be used are logged once, and the certificate in use stays. Connections keep
    the certificate that they began with. The files are read in a thread.
    """

    def __init__(self, paths: Paths, now: Callable[[], datetime] = _now) -> None:
        self._paths = paths
        self._now = now
        self._current: Certificate
        # The content of the files at the last reading; a text where they could not be read.
        self._seen: Files | str
        self._judged: Files | str
        self._problem = ""
        self._reminder: tuple[str, datetime] | None = None

    async def load(self) -> None:
        """Read the certificate. Raises CertificateUnusable."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await asyncio.to_thread(self._load)
                break
            except CertificateUnusable:
                if attempt == _ATTEMPTS:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)
        log.info("certificate loaded", **self._described())
        self._remind()

    async def follow(self) -> None:
        """Replace the certificate as its files change, and warn before it expires, until
        cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            # If no thread can be started, it is tried again the next time.
            with suppress(RuntimeError):
                await asyncio.to_thread(self.check)

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

    def check(self) -> None:
        """Read the files once. Content is used, or reported, when it is read for the second time.

        A volume of a Secret is replaced between the reading of two files, and other tools write one
        after the other: such a pair is gone the next time.
        """
        try:
            files: Files | str = read_files(self._paths)
        except CertificateUnusable as e:
            files = str(e)
        if files == self._seen:
            self._judge(files)
        self._seen = files
        self._remind()

    def _load(self) -> None:
        files = read_files(self._paths)
        self._current = parse(files, self._paths, self._now())
        self._seen = self._judged = files

    def _judge(self, files: Files | str) -> None:
        if files == self._judged and not self._problem:
            return
        problem = files if isinstance(files, str) else ""
        if isinstance(files, Files):
            try:
                self._use(parse(files, self._paths, self._now()))
            except CertificateUnusable as e:
                problem = str(e)
        if problem and (files, problem) != (self._judged, self._problem):
            log.error("certificate cannot be replaced", problem=problem, **self._described())
        self._judged, self._problem = files, problem

    def _use(self, certificate: Certificate) -> None:
        if certificate != self._current:
            self._current = certificate
            log.info("certificate replaced", **self._described())

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
