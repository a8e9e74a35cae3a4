"""TLS, tokens, and the options of a channel."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import grpc

# Trailing and leading metadata of a call are limited to 8 KiB.
_LONGEST_TOKEN = 8192
_TOKEN = re.compile(r"[\x21-\x7e]+")
_KEY = re.compile(b"-----BEGIN (RSA |EC |DSA )?PRIVATE KEY-----")
_LOOPBACK_NAMES = ("localhost", "localhost.", "ip6-localhost")

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of a channel. Each file is PEM and is read once, when the client is made.

    ca_file: the certificates that sign the server's; the system's where it is None.
    cert_file, key_file: the client's own certificate and key, both or neither.
    server_name: the name that the server's certificate must have, if it is not the target's host.
    """

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    server_name: str = ""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises OSError where one cannot be read, ValueError where one is not in
        PEM or half a pair is missing: gRPC would take that for a server that is not reachable."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file must be set both or neither")
        ca, certificate = self._certificates("ca_file"), self._certificates("cert_file")
        return grpc.ssl_channel_credentials(ca, self._private_key(), certificate)

    def _certificates(self, field: str) -> bytes | None:
        content = self._read(field)
        if content is not None:
            try:
                # Between certificates there may be comments in any language.
                text = content.decode("ascii", "ignore")
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
            except (ssl.SSLError, ValueError):
                file = os.fspath(getattr(self, field))
                raise ValueError(f"{field} {file} must have certificates in PEM") from None
        return content

    def _private_key(self) -> bytes | None:
        content = self._read("key_file")
        if content is not None and not (_KEY.search(content) and self._is_a_pair()):
            file = os.fspath(self.key_file or "")
            raise ValueError(
                f"key_file {file} must have the certificate's private key in PEM, not encrypted"
            )
        return content

    def _is_a_pair(self) -> bool:
        """Whether the key is the certificate's. A pipe is not read twice, and passes."""
        certificate, key = Path(self.cert_file or ""), Path(self.key_file or "")
        if certificate.is_file() and key.is_file():
            try:
                # With a password, even an empty one, OpenSSL does not ask at the terminal.
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.load_cert_chain(certificate, key, password="")
            except ssl.SSLError as error:
                # A key that OpenSSL finds too small or too weak may be good enough for gRPC.
                return "_TOO_" in (error.reason or "")
        return True

    def _read(self, field: str) -> bytes | None:
        file: str | os.PathLike[str] | None = getattr(self, field)
        if file is None:
            return None
        try:
            return Path(file).read_bytes()
        except OSError as error:
            named = f"{field} {os.fspath(file)}: {error.strerror}"
            raise OSError(error.errno, named) from error


class Token:
    """A bearer token: none, a text, the result of a function, or the contents of a file.

    A file is read again when it has changed, looked at once a call, as for a ServiceAccount's
    projected token. While it cannot be read, or has no valid token, the one from before is sent.
    """

    def __init__(
        self,
        token: str | Callable[[], str] | None = None,
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        if token is not None and file is not None:
            raise ValueError("token and token_file must not both be set")
        self._file = None if file is None else Path(file)
        self._make = token if callable(token) else None
        self._token = _checked(token, "token") if isinstance(token, str) else ""
        self._seen: tuple[int, int, int] | None = None

    def __repr__(self) -> str:
        return "Token(***)" if self else "Token()"

    def __bool__(self) -> bool:
        return bool(self._file or self._make or self._token)

    @property
    def blocks(self) -> bool:
        """Whether `metadata` reads a file or calls a function."""
        return bool(self._file or self._make)

    @property
    def source(self) -> str:
        """Where the token comes from, for errors."""
        return str(self._file) if self._file else "the token's function"

    def metadata(self) -> Metadata:
        """Return the metadata of the next call. Raises ValueError where there never was a valid
        token, or a function returns none, OSError where the file was never readable; neither has
        the token in its text. Raises what a function raises, for StopIteration and
        StopAsyncIteration a RuntimeError."""
        token = self._token
        if self._make:
            try:
                made = self._make()
            except (StopIteration, StopAsyncIteration) as error:
                # It would end the run of the call as if that were done, or never reach its task.
                kind = type(error).__name__
                raise RuntimeError(f"the token's function raised {kind}") from error
            # Not kept: another thread makes that of another call.
            token = _checked(made, "token")
        elif self._file:
            self._refresh(self._file)
            token = self._token
        return (("authorization", f"Bearer {token}"),) if token else ()

    def _refresh(self, file: Path) -> None:
        try:
            found = file.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen == self._seen:
                return
            with file.open("rb") as opened:
                text = opened.read(_LONGEST_TOKEN + 2).decode("ascii", "replace").strip()
            self._token, self._seen = _checked(text, str(file)), seen
        except (OSError, ValueError):
            # Also one that is being written is empty for a moment.
            if not self._token:
                raise


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """How to open a channel. `credentials` is None for plaintext."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, Any], ...]
    token: Token
    metadata: Metadata = field(repr=False)


def redact(text: str, sent: Metadata) -> str:
    """Take the tokens that a call has sent out of a text that came back."""
    for name, value in sent:
        for secret in value.split()[-1:] if name == "authorization" else ():
            text = text.replace(secret, "***")
    return text


def channel_spec(
    target: str,
    tls: Tls | bool | None,
    token: Token,
    plaintext_token: bool,
    metadata: Sequence[tuple[str, str]],
    options: Sequence[tuple[str, Any]],
) -> ChannelSpec:
    """Check and complete the arguments of a client. Raises ValueError."""
    if not target:
        raise ValueError("target must be host:port")
    local = is_local(target)
    if tls is None:
        tls = not local
    if tls is True:
        tls = Tls()
    headers = tuple((name.lower(), value) for name, value in metadata)
    secret = token or any(name == "authorization" for name, _ in headers)
    if secret and not tls and not local and not plaintext_token:
        raise ValueError(
            f"a token must not be sent to {target} in plaintext: use TLS, or allow it with"
            " plaintext_token=True"
        )
    chosen = dict(_OPTIONS)
    chosen["grpc.primary_user_agent"] = f"modelservice-client/{own_version()}"
    if local:
        # A proxy in between would get what is meant for this machine alone.
        chosen["grpc.enable_http_proxy"] = 0
    if tls and tls.server_name:
        chosen["grpc.ssl_target_name_override"] = tls.server_name
        chosen["grpc.default_authority"] = tls.server_name
    chosen.update(options)
    credentials = tls.channel_credentials() if tls else None
    return ChannelSpec(target, credentials, tuple(chosen.items()), token, headers)


def is_local(target: str) -> bool:
    """Whether every address of a target is this machine's own, by its text alone."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    scheme = re.match(r"(dns|ipv4|ipv6|passthrough):(//([^/]*)/)?", target)
    addresses = target[scheme.end() :] if scheme else target
    # The authority of a DNS target is the server that resolves its names: to any address.
    trusts_names = not (scheme and scheme[3])
    return all(_is_loopback(address, trusts_names) for address in addresses.split(","))


_OPTIONS: dict[str, Any] = {
    # Proxies and other servers close connections that ping more often than each 10 s.
    "grpc.keepalive_time_ms": 15_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # Without this one a dead connection is noticed only after a minute, in spite of the two above.
    "grpc.http2.ping_timeout_ms": 10_000,
    "grpc.http2.max_pings_without_data": 0,
    # The second is also how long an attempt to connect may take.
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 5_000,
    "grpc.max_reconnect_backoff_ms": 2_000,
    # A page of List has 2 MiB and one service more.
    "grpc.max_receive_message_length": 8 << 20,
    # One layer of retries is enough, and gRPC's does not know reasons.
    "grpc.service_config": "{}",
    "grpc.service_config_disable_resolution": 1,
}


def _is_loopback(address: str, trusts_names: bool) -> bool:
    host = address.rpartition(":")[0] if re.search(r"[^:]:\d+$", address) else address
    host = host.strip("[]").lower()
    if host in _LOOPBACK_NAMES:
        return trusts_names
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(token: str, source: str) -> str:
    if not _TOKEN.fullmatch(token) or len(token) > _LONGEST_TOKEN:
        raise ValueError(
            f"{source}: a token must be 1 to {_LONGEST_TOKEN} printable ASCII characters"
            " without spaces"
        )
    return token


def own_version() -> str:
    """Return the version of this distribution, as it is installed."""
    try:
        return version("modelservice-client")
    except PackageNotFoundError:
        return "unknown"
