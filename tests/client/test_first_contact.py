"""Clients of both kinds against servers that close connections before they answer."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import modelservice_client as ms
import pytest
from modelservice.v1.registry_service_pb2 import CreateRegisteredModelRequest
from modelservice_client import rpcs
from modelservice_client.drivers import first_contact

from lab.credentials import write_loopback_certificate
from tests.client.faces import client
from tests.client.tcp_proxy import tcp_proxy
from tests.client.test_faces import eventually
from tests.client.tls_ports import Ports, tls_ports
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with tls_ports(tmp_path_factory.mktemp("ports")) as ports:
        yield ports


async def refusal(kind: str, address: str, tls: Any, method: str, *given: Any) -> ms.NotReachable:
    """How a call ends that would have ten times the patience of tests."""
    patience = 10 * PATIENCE_SECONDS
    async with client(kind, address, tls=tls, patience=patience) as face:
        with pytest.raises(ms.NotReachable) as raised:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await face.call(method, *given, timeout=patience)
    return raised.value


CREATE = (rpcs.CREATE_REGISTERED_MODEL, CreateRegisteredModelRequest())


@pytest.mark.parametrize(
    ("method", "given"), [("get", ("iris",)), ("wait_ready", ("iris",)), ("call", CREATE)]
)
async def test_a_port_for_client_certificates_says_so_soon(
    method: str, given: tuple[Any, ...], kind: str, ports: Ports
) -> None:
    tls = ms.Tls(ca_file=ports.folder / "ca.crt")
    error = await refusal(kind, ports.addresses["client certificates"], tls, method, *given)
    assert "Socket closed, after the TLS handshake" in error.message
    assert "cert_file and key_file of Tls" in error.message
    assert not error.was_sent


async def test_plaintext_to_a_port_with_tls_says_so_soon(kind: str, ports: Ports) -> None:
    for port in ("TLS", "client certificates"):
        error = await refusal(kind, ports.addresses[port], False, "get", "iris")
        assert "no TLS was asked for" in error.message
        assert "the server speaks TLS. use tls=True" in error.message
        assert not error.passes


async def test_a_certificate_of_the_server_that_has_expired_is_told_from_an_unknown_one(
    kind: str, ports: Ports
) -> None:
    tls = ms.Tls(ca_file=ports.folder / "ca.crt")
    error = await refusal(kind, ports.addresses["expired"], tls, "get", "iris")
    assert "certificate must be renewed" in error.message
    assert "ca_file" not in error.message


@contextmanager
def accepting(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port whose connections are handled so, and closed."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    handle(connection)

    thread = threading.Thread(target=accept, name="foreign server", daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("newest", "words"),
    [
        # Its alert comes before the end of the handshake, or after it.
        (ssl.TLSVersion.TLSv1_2, "ALERT_HANDSHAKE_FAILURE: OK. give a client certificate"),
        (ssl.TLSVersion.TLSv1_3, "after the TLS handshake. If the port takes clients"),
    ],
)
async def test_a_proxy_that_asks_for_a_client_certificate_is_understood_too(
    newest: ssl.TLSVersion, words: str, kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tls"
    write_loopback_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    context.load_verify_locations(folder / "tls.crt")
    context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, newest
    context.set_alpn_protocols(["h2"])

    def ask(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1)

    with accepting(ask) as address:
        tls = ms.Tls(ca_file=folder / "tls.crt")
        assert words in (await refusal(kind, address, tls, "get", "iris")).message
        plaintext = await refusal(kind, address, False, "get", "iris")
        assert "the server speaks TLS" in plaintext.message


async def test_a_plaintext_server_that_closes_connections_while_it_starts_is_waited_for(
    kind: str, served: Served
) -> None:
    closed = 0

    def close(_: socket.socket) -> None:
        nonlocal closed
        closed += 1

    with accepting(close) as starting, tcp_proxy(starting) as proxy:
        async with client(kind, proxy.address) as face:
            listing = asyncio.create_task(face.call("list", timeout=PATIENCE_SECONDS))
            # Each attempt, and the one look whether it speaks TLS.
            await eventually("some attempts failed", lambda: closed >= 4)
            proxy.backends = (served.address,)
            assert isinstance(await listing, list)


def says_hello(connection: socket.socket) -> bool:
    """Whether a TLS handshake begins."""
    return connection.recv(1, socket.MSG_PEEK) == b"\x16"


async def test_a_port_for_both_is_waited_for_while_its_server_in_plaintext_starts(
    kind: str, served: Served, tmp_path: Path
) -> None:
    folder = tmp_path / "tls"
    write_loopback_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    seen = []

    def take(connection: socket.socket) -> None:
        hello = says_hello(connection)
        seen.append(hello)
        if hello:
            context.wrap_socket(connection, server_side=True).close()

    with accepting(take) as starting, tcp_proxy(starting) as proxy:
        async with client(kind, proxy.address) as face:
            listing = asyncio.create_task(face.call("list", timeout=PATIENCE_SECONDS))
            await eventually("it was tried again", lambda: True in seen and seen.count(False) >= 2)
            proxy.backends = (served.address,)
            assert isinstance(await listing, list)


@pytest.fixture
def long_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look for TLS is not given up in the time of a test."""
    monkeypatch.setattr(first_contact, "_PROBE_SECONDS", 10 * PATIENCE_SECONDS)


@contextmanager
def silent_on_handshakes() -> Iterator[tuple[str, list[socket.socket]]]:
    """A port that closes connections in plaintext, and does not answer a handshake."""
    held: list[socket.socket] = []

    def take(connection: socket.socket) -> None:
        if says_hello(connection):
            held.append(connection.dup())

    with accepting(take) as address:
        yield address, held
    for connection in held:
        connection.close()


@pytest.mark.usefixtures("long_look")
async def test_the_look_for_tls_is_one_for_all_calls_and_within_their_timeouts(kind: str) -> None:
    with silent_on_handshakes() as (address, held):
        async with client(kind, address) as face, asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(3):
                called = [face.call("get", "iris", timeout=1) for _ in range(4)]
                errors = await asyncio.gather(*called, return_exceptions=True)
                assert all(isinstance(error, ms.NotReachable) for error in errors)
        assert len(held) == 1


@pytest.mark.usefixtures("long_look")
async def test_a_client_that_is_closed_does_not_wait_for_the_look_for_tls(kind: str) -> None:
    with silent_on_handshakes() as (address, held):
        async with client(kind, address) as face:
            getting = asyncio.create_task(face.call("get", "iris", timeout=10 * PATIENCE_SECONDS))
            await eventually("it was looked for", lambda: bool(held))
            await face.close()
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(ms.ClientClosed):
                    await getting


@pytest.mark.usefixtures("long_look")
async def test_the_look_for_tls_takes_no_thread_of_the_loop() -> None:
    with silent_on_handshakes() as (address, held):
        async with client("asyncio", address) as face:
            patience = 10 * PATIENCE_SECONDS
            called = [face.call("get", f"iris-{n}", timeout=patience) for n in range(100)]
            calls = asyncio.gather(*called, return_exceptions=True)
            await eventually("it was looked for", lambda: bool(held))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.to_thread(int)
                await face.close()
                await calls
