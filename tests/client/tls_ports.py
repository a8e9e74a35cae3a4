"""Ports of real servers: in plaintext, with TLS, for client certificates only, and with a
certificate of the server that has expired."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.api.tls_files import TlsFiles
from tests.api.token_files import entry, identity
from tests.api_recorders import Authority
from tests.serving import serving, settings

# Long enough to be loaded by a server on a busy machine.
_SHORT = dt.timedelta(seconds=6)


@dataclass(frozen=True)
class Ports:
    """Addresses by the name of what they are, and a folder with `ca.crt`, `other-ca.crt`, and the
    pairs `mine`, `strange`, which is of another CA, and `old`, which has expired."""

    addresses: dict[str, str]
    folder: Path

    def files(self, words: str) -> list[str]:
        """Flags of modelctl, with the paths of their files."""
        return [str(self.folder / w) if w.endswith((".crt", ".key")) else w for w in words.split()]


@contextmanager
def tls_ports(folder: Path) -> Iterator[Ports]:
    """Servers for the length of a block."""
    authority, clients, other = (Authority(name) for name in ("servers", "clients", "others"))
    for name, of in (("ca", authority), ("clients", clients), ("other-ca", other)):
        (folder / f"{name}.crt").write_bytes(of.pem)
    day = dt.timedelta(days=1)
    for name, pair in (
        ("mine", clients.issue("ci")),
        ("strange", other.issue("ci")),
        ("old", clients.issue("ci", begins=-2 * day, ends=-day)),
    ):
        for suffix, content in zip(("crt", "key"), pair, strict=True):
            (folder / f"{name}.{suffix}").write_bytes(content)
    tokens = folder / "tokens.toml"
    tokens.write_text(entry("ci", namespaces={"model-serving": "viewer"}))
    files, short = TlsFiles(folder / "tls", authority), TlsFiles(folder / "short", authority)
    mtls = {"mtls_listen": "127.0.0.1:0", "client_ca": str(folder / "clients.crt")}
    with (
        serving(settings()) as plain,
        serving(settings(serving=files.setting | mtls, identity=identity(tokens))) as both,
    ):
        both.wait_until_synced()
        short.renew(ends=_SHORT)
        ends = time.monotonic() + _SHORT.total_seconds()
        with serving(short.settings()) as expired:
            time.sleep(max(ends - time.monotonic(), 0.0))
            assert both.application.mtls_port
            addresses = {
                "plaintext": plain.address,
                "TLS": both.address,
                "client certificates": f"127.0.0.1:{both.application.mtls_port}",
                "expired": expired.address,
            }
            yield Ports(addresses, folder)
