"""The certificate and the key of a server in files, as a volume of a Secret has them."""

from __future__ import annotations

import datetime as dt
import itertools
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import grpc

from server.settings import Settings
from tests.api_recorders import Authority
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings

HOSTS = ("localhost", "127.0.0.1", "::1")
LONG = dt.timedelta(days=90)
_versions = itertools.count(1)


class TlsFiles:
    """`tls.crt` and `tls.key` in a folder. Kubernetes replaces both at once: they are links into
    the folder that the link `..data` leads to."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.authority = authority
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self._folder = folder
        folder.mkdir(exist_ok=True)
        for file in (self.cert, self.key):
            file.symlink_to(f"..data/{file.name}")
        self.renew()

    def issue(self, **more: Any) -> tuple[bytes, bytes]:
        return self.authority.issue("modelservice", HOSTS, **({"ends": LONG} | more))

    def renew(self, **more: Any) -> bytes:
        """Replace both by a new pair; its certificate."""
        cert, key = self.issue(**more)
        self.put(cert, key)
        return cert

    def put(self, cert: bytes | None, key: bytes | None) -> None:
        """Replace what is in both files at once; None: there is none."""
        self.switch_to(self.version(cert, key))

    def version(self, cert: bytes | None, key: bytes | None) -> Path:
        """A folder with these files, which `switch_to` puts in the place of the one before."""
        version = self._folder / f"..{next(_versions)}"
        version.mkdir()
        for file, content in ((self.cert, cert), (self.key, key)):
            if content is not None:
                (version / file.name).write_bytes(content)
        return version

    def switch_to(self, version: Path) -> None:
        new = self._folder / "..data_tmp"
        new.symlink_to(version.name)
        new.replace(self._folder / "..data")

    @property
    def content(self) -> tuple[bytes, bytes]:
        return self.cert.read_bytes(), self.key.read_bytes()

    @property
    def setting(self) -> dict[str, str]:
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    @property
    def environment(self) -> dict[str, str]:
        return {f"MODELSERVICE_{name.upper()}": path for name, path in self.setting.items()}

    def settings(self, stop: dict[str, Any] | None = None, **serving: Any) -> Settings:
        """Settings of a server with TLS."""
        return settings(serving=self.setting | serving, stop=stop)

    def channel(self, address: str) -> grpc.Channel:
        """A channel with a connection of its own."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(
            address, grpc.ssl_channel_credentials(self.authority.pem), options=own
        )

    def handshake(self, address: str, **context: Any) -> ssl.SSLSocket:
        """A connection whose handshake is over. Raises ssl.SSLError and OSError."""
        made = ssl.create_default_context(cadata=self.authority.pem.decode())
        made.set_alpn_protocols(["h2"])
        for name, value in context.items():
            setattr(made, name, value)
        host, _, port = address.rpartition(":")
        return made.wrap_socket(
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE_SECONDS),
            server_hostname="localhost",
        )

    def served(self, address: str) -> bytes:
        """The certificate that a new connection sees, as PEM."""
        with self.handshake(address) as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown
        return ssl.DER_cert_to_PEM_cert(shown).encode()

    def wait_until_served(self, address: str, cert: bytes) -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
        while self.served(address) != cert:
            assert time.monotonic() < ends, "new connections do not see the new certificate"
            time.sleep(0.01)
