"""Connections to a port with TLS that are no good, and what becomes of the others."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1.model_service_pb2 import GetRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.api import grpc_server
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served, serving

from .requests import deploy
from .tls_files import TlsFiles

FLOOD = 1000


def limit_handshakes(monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    options = dict(grpc_server._OPTIONS) | {"grpc.server_handshake_timeout_ms": milliseconds}
    monkeypatch.setattr(grpc_server, "_OPTIONS", tuple(options.items()))


@pytest.fixture
def quick_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_handshakes(monkeypatch, 2000)


@pytest.fixture
def served(files: TlsFiles) -> Iterator[Served]:
    with serving(files.settings()) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture
def stub(files: TlsFiles, served: Served, name: str) -> Iterator[ModelServiceStub]:
    """A caller that does all right, of a service that is there."""
    with files.channel(served.address) as channel:
        stub = ModelServiceStub(channel)
        stub.Deploy(deploy(name), wait_for_ready=True, timeout=PATIENCE_SECONDS)
        yield stub


def test_a_caller_in_plaintext_gets_an_error_and_hurts_nobody(
    files: TlsFiles, served: Served, stub: ModelServiceStub, name: str
) -> None:
    with grpc.insecure_channel(served.address) as channel:
        for _ in range(20):
            with pytest.raises(grpc.RpcError) as raised:
                ModelServiceStub(channel).Get(GetRequest(name=name), timeout=PATIENCE_SECONDS)
            assert raised.value.code() is StatusCode.UNAVAILABLE
    assert is_served(files, served, stub, name)


def is_served(files: TlsFiles, served: Served, stub: ModelServiceStub, name: str) -> bool:
    """On the connection of before, and on a new one."""
    with files.channel(served.address) as channel:
        calls = (stub.Get, ModelServiceStub(channel).Get)
        return all(
            call(GetRequest(name=name), wait_for_ready=True, timeout=PATIENCE_SECONDS).service.name
            == name
            for call in calls
        )


def closed(connection: socket.socket) -> bool:
    """Whether the server closes a connection before patience ends."""
    connection.settimeout(PATIENCE_SECONDS)
    with suppress(ConnectionResetError):
        while connection.recv(2**16):
            pass
    return True


def test_without_http_2_in_its_handshake_a_connection_is_closed(
    files: TlsFiles, served: Served
) -> None:
    for protocols in ([], ["http/1.1"]):
        context = ssl.create_default_context(cadata=files.authority.pem.decode())
        if protocols:
            context.set_alpn_protocols(protocols)
        host, _, port = served.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), PATIENCE_SECONDS) as plain,
            suppress(ssl.SSLError, ConnectionResetError),
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            assert connection.selected_alpn_protocol() is None
            assert closed(connection)


@pytest.mark.parametrize(
    ("version", "works"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_2_is_the_least(
    files: TlsFiles, served: Served, version: ssl.TLSVersion, works: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=files.authority.pem.decode())
    # OpenSSL itself has these off otherwise.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = served.address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as plain:
        if not works:
            refused = r"EOF|PROTOCOL_VERSION|reset"
            with pytest.raises((ssl.SSLError, ConnectionResetError), match=refused):
                context.wrap_socket(plain, server_hostname="localhost")
            return
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            assert connection.selected_alpn_protocol() == "h2"


def connections(served: Served, number: int, held: ExitStack) -> list[socket.socket]:
    """So many of them, which say nothing, until the stack is closed."""
    host, _, port = served.address.rpartition(":")
    return [
        held.enter_context(socket.create_connection((host, int(port)), PATIENCE_SECONDS))
        for _ in range(number)
    ]


# The first bytes of a record that is never sent to its end.
@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x40\x00" + b"\x01" * 3000])
@pytest.mark.usefixtures("quick_handshakes")
def test_handshakes_that_are_never_finished_are_closed_and_block_nobody(
    files: TlsFiles, served: Served, stub: ModelServiceStub, name: str, begun: bytes
) -> None:
    with ExitStack() as held:
        flood = connections(served, FLOOD, held)
        for connection in flood:
            connection.sendall(begun)
        assert is_served(files, served, stub, name)
        assert all(closed(connection) for connection in flood)
    assert is_served(files, served, stub, name)


def test_connections_have_a_limit_also_before_their_handshake(
    files: TlsFiles, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_handshakes(monkeypatch, int(PATIENCE_SECONDS * 10_000))
    with serving(files.settings(max_calls=10, max_streams=20)) as served:
        served.wait_until_synced()
        with ExitStack() as held:
            [*_, last] = connections(served, 16, held)
            assert closed(last)
        with files.channel(served.address) as channel:
            deployed = ModelServiceStub(channel).Deploy(
                deploy(name), wait_for_ready=True, timeout=PATIENCE_SECONDS
            )
            assert deployed.rollout_id


def test_with_tls_an_address_beyond_loopback_needs_no_permission(files: TlsFiles) -> None:
    with serving(files.settings(listen="0.0.0.0:0")) as served:
        assert files.served(served.address)
