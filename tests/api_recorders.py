"""Loopback servers that stand for API servers and proxies, and record who asks, and how."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}
# What the API itself has after a path of the server's own.
_API_PATH = re.compile("/(version|readyz|openapi/.*|apis?|apis?/.*)$")
_COLLECTION = re.compile("/(api/[^/]+|apis/[^/]+/[^/]+)/.+$")
_IDENTITY = ("authorization", "impersonate-")


class Authority:
    """A certificate authority; `pem` is its own certificate."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = self._sign(self._name, self._key, [], authority=True)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        name: str,
        hosts: Sequence[str] = (),
        *,
        begins: dt.timedelta = -dt.timedelta(hours=1),
        ends: dt.timedelta = dt.timedelta(days=1),
        curve: ec.EllipticCurve | None = None,
        subject: x509.Name | None = None,
    ) -> tuple[bytes, bytes]:
        """A certificate for these hosts and addresses, and its key, as PEM; valid from `begins` to
        `ends`, from now."""
        key = ec.generate_private_key(curve or ec.SECP256R1())
        certificate = self._sign(subject or _name(name), key, hosts, begins=begins, ends=ends)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return certificate.public_bytes(serialization.Encoding.PEM), pem

    def sign_authority(self, other: Authority, *, is_authority: bool) -> bytes:
        """A certificate of another one's key, as PEM."""
        signed = self._sign(other._name, other._key, [], authority=is_authority)
        return signed.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        hosts: Sequence[str],
        *,
        authority: bool = False,
        begins: dt.timedelta = -dt.timedelta(hours=1),
        ends: dt.timedelta = dt.timedelta(days=1),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


@dataclass(frozen=True)
class Asked:
    """One request: which server was asked, and as whom.

    `prefix` is the path before the API's own; `via` is what a proxy was asked for.
    """

    server: str
    prefix: str
    server_name: str
    certificate: str
    identity: tuple[tuple[str, str], ...]
    via: str = ""

    def __str__(self) -> str:
        parts = [
            self.server + self.prefix,
            self.via and f"via {self.via}",
            self.server_name and f"SNI {self.server_name}",
            self.certificate and f"certificate {self.certificate}",
            *(f"{name}: {value[:60]}" for name, value in self.identity),
        ]
        return ", ".join(part for part in parts if part)


@dataclass
class Recorder:
    """An API server that records. `asked` has all requests; `tokens`, where set, those that it
    takes: it answers 401 to any other. Each answer takes it some seconds."""

    name: str
    asked: list[Asked] = field(default_factory=list)
    tokens: set[str] | None = None
    takes: float = 0.0
    port: int = 0
    paths: list[tuple[str, str]] = field(default_factory=list)
    via: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(self._asked(request))
        self.paths.append((request.method, request.path))
        await asyncio.sleep(self.takes)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and given not in self.tokens:
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if "watch" in request.query:
            await asyncio.Event().wait()
        if request.method == "GET" and _COLLECTION.search(request.path):
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        return web.json_response(VERSION)

    def _asked(self, request: web.Request) -> Asked:
        assert request.transport
        tls = request.transport.get_extra_info("ssl_object")
        peer = (tls.getpeercert() if tls else None) or {}
        subject = dict(pair for pairs in peer.get("subject", ()) for pair in pairs)
        identity = sorted(
            (name.lower(), value)
            for name, value in request.headers.items()
            if name.lower().startswith(_IDENTITY)
        )
        return Asked(
            server=self.name,
            prefix=_API_PATH.sub("", request.path),
            server_name=getattr(tls, "name_asked_for", None) or "",
            certificate=subject.get("commonName", ""),
            identity=tuple(identity),
            via=self.via,
        )


@asynccontextmanager
async def recording(
    name: str,
    *,
    certificate: tuple[bytes, bytes] | None = None,
    clients: Authority | None = None,
    folder: Path,
    host: str = "127.0.0.1",
) -> AsyncIterator[Recorder]:
    """A recorder on a free port, over TLS with a certificate; it asks for those of `clients`."""
    recorder = Recorder(name)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", recorder.answer)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    tls = _server_tls(certificate, clients, folder) if certificate else None
    await web.TCPSite(runner, host, 0, ssl_context=tls).start()
    recorder.port = runner.addresses[0][1]
    try:
        yield recorder
    finally:
        await runner.cleanup()


@asynccontextmanager
async def proxying(name: str, upstream: Recorder) -> AsyncIterator[int]:
    """An HTTP proxy that leads whatever it is asked for to one recorder; its port."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            method, target, _ = lines[0].split(" ")
            secret = [line for line in lines if line.lower().startswith("proxy-authorization")]
            upstream.via = " ".join([f"{name} for {target.partition('?')[0]}", *secret])
            there, back = await asyncio.open_connection("127.0.0.1", upstream.port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                back.write(head.replace(target.encode(), f"/{target.split('/', 3)[3]}".encode()))
            await asyncio.gather(_pipe(reader, back), _pipe(there, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(2**16):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def _server_tls(
    certificate: tuple[bytes, bytes], clients: Authority | None, folder: Path
) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    file = folder / "server.pem"
    file.write_bytes(b"".join(certificate))
    context.load_cert_chain(file)
    file.unlink()
    if clients:
        context.load_verify_locations(cadata=clients.pem.decode())
        context.verify_mode = ssl.CERT_OPTIONAL

    def note(tls: Any, name: str | None, _: ssl.SSLContext) -> None:
        tls.name_asked_for = name

    context.sni_callback = note
    return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
