"""Client certificates: MODELSERVICE_MTLS_LISTEN and MODELSERVICE_CLIENT_CA."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from grpc import StatusCode
from modelservice.v1.model_service_pb2 import ListRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from structlog.testing import capture_logs

from server import followed_file
from server.api.transport import client_certificates
from server.api.transport.client_certificates import MOST_BYTES
from server.control import authorizer
from server.domain.errors import Unauthenticated
from server.settings import SettingsInvalid
from tests.api_recorders import Authority
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of, refused
from tests.serving import Served, serving, settings

from .requests import deploy, eventually, kinds, watching
from .tls_files import TlsFiles
from .token_files import entry, identity

HERE = "team-a"
LIST = ListRequest(namespace=HERE)
Pair = tuple[bytes, bytes]


def subject(*names: str, groups: tuple[str, ...] = ()) -> x509.Name:
    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names),
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
        ]
    )


class World:
    """A server that takes tokens at one port, and certificates of `clients` at another."""

    def __init__(self, served: Served, files: TlsFiles, ca: Path, clients: Authority) -> None:
        self.served, self.files, self.ca, self.clients = served, files, ca, clients

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.served.application.mtls_port}"

    def pair(self, *names: str, groups: tuple[str, ...] = (), **more: Any) -> Pair:
        return self.clients.issue("", subject=subject(*names, groups=groups), **more)

    @contextmanager
    def models(self, pair: Pair | None, address: str = "") -> Iterator[ModelServiceStub]:
        """The service over a connection of its own."""
        cert, key = pair or (None, None)
        tls = grpc.ssl_channel_credentials(self.files.authority.pem, key, cert)
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(address or self.address, tls, options=own) as channel:
            yield ModelServiceStub(channel)

    def trust(self, content: bytes) -> None:
        """Replace the file of the CAs in one step: the server may read it at any moment."""
        new = self.ca.with_name("new.crt")
        new.write_bytes(content)
        new.replace(self.ca)

    def refused_connection(self, pair: Pair | None) -> None:
        with self.models(pair) as models, pytest.raises(grpc.RpcError) as raised:
            models.List(LIST)
        assert raised.value.code() is StatusCode.UNAVAILABLE

    def unauthenticated(self, pair: Pair, metadata: tuple[tuple[str, str], ...] = ()) -> str:
        with self.models(pair) as models, pytest.raises(grpc.RpcError) as raised:
            models.List(LIST, timeout=PATIENCE_SECONDS, metadata=metadata)
        refusal = refusal_of(raised.value)
        assert (refusal.code, refusal.reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        return refusal.message


@pytest.fixture(scope="session")
def clients() -> Authority:
    return Authority("the CA of clients")


@pytest.fixture
def world(
    files: TlsFiles, clients: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """Files are read often, and streams are checked often."""
    monkeypatch.setattr(followed_file, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(authorizer, "RECHECK", authorizer.RECHECK / 600)
    tokens, ca = tmp_path / "tokens.toml", tmp_path / "clients.crt"
    ca.write_bytes(clients.pem)
    tokens.write_text(
        entry("ci", namespaces={HERE: "admin"})
        + f'[[user]]\nname = "jane"\nnamespaces = {{ {HERE} = "admin" }}\n'
        + f'[[group]]\nname = "risk"\nnamespaces = {{ {HERE} = "viewer" }}\n'
    )
    made = settings(
        serving=files.setting | {"mtls_listen": "127.0.0.1:0", "client_ca": str(ca)},
        identity=identity(tokens),
    )
    with serving(made) as served:
        served.wait_until_synced()
        yield World(served, files, ca, clients)


def test_a_certificate_names_the_user_and_its_groups_which_have_their_roles(world: World) -> None:
    with capture_logs() as logged:
        with world.models(world.pair("jane")) as models:
            models.Deploy(deploy("iris", namespace=HERE), timeout=PATIENCE_SECONDS)
        with world.models(world.pair("joe", groups=("ops", "risk"))) as models:
            [service] = models.List(LIST, timeout=PATIENCE_SECONDS).services
            assert service.name == "iris"
            denied = deploy("iris", namespace=HERE)
            refused(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", models.Deploy, denied)
        with world.models(world.pair("ann")) as models:
            refused(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", models.List, LIST)
    users = [line["user"] for line in logged if line["event"] == "call"]
    assert users == ["jane", "joe", "joe", "ann"]


async def test_the_callers_of_certificates_are_authenticated(world: World) -> None:
    certificates = world.served.application._clients
    assert certificates
    leaf = client_certificates.ClientCertificate(world.pair("jane", groups=("b", "a", "b"))[0], b"")
    caller = await certificates.caller_of(leaf)
    assert (caller.name, caller.groups) == ("jane", ("b", "a", "system:authenticated"))


@pytest.mark.parametrize("is_authority", [True, False])
async def test_a_certificate_between_caller_and_ca_must_be_one_of_a_ca(
    world: World, is_authority: bool
) -> None:
    certificates = world.served.application._clients
    assert certificates
    between = Authority("between")
    issued = world.clients.sign_authority(between, is_authority=is_authority)
    leaf, _ = between.issue("", subject=subject("jane"))
    shown = client_certificates.ClientCertificate(leaf, issued)
    if is_authority:
        assert (await certificates.caller_of(shown)).name == "jane"
    else:
        with pytest.raises(Unauthenticated, match="must be from a CA that this server"):
            await certificates.caller_of(shown)


def test_a_connection_without_a_valid_certificate_of_the_ca_is_refused(world: World) -> None:
    past = dt.timedelta(days=-2)
    world.refused_connection(None)
    world.refused_connection(Authority("the CA of clients").issue("jane"))
    world.refused_connection(world.files.issue())
    world.refused_connection(world.pair("jane", begins=past, ends=past / 2))
    world.refused_connection(world.pair("jane", begins=-past / 2, ends=-past))


@pytest.mark.parametrize(
    ("names", "groups", "problem"),
    [
        (("system:admin",), (), "names the user|has the name 'system:admin'"),
        (("jane",), ("system:masters",), "has the name 'system:masters'"),
        (("jane",), ("risk", "system:authenticated"), "has the name 'system:authenticated'"),
        ((), ("risk",), "must have one CN, and has 0"),
        (("jane", "system:admin"), (), "must have one CN, and has 2"),
        (("ja\nne",), (), "printable characters"),
        (("jane",), tuple(f"g{n}" for n in range(101)), "at most 100 O, and has 101"),
    ],
)
def test_a_certificate_without_a_name_of_its_own_lets_nobody_in(
    world: World, names: tuple[str, ...], groups: tuple[str, ...], problem: str
) -> None:
    message = world.unauthenticated(world.pair(*names, groups=groups))
    assert any(part in message for part in problem.split("|")), message


def test_a_call_has_a_certificate_or_a_token(world: World) -> None:
    jane = world.pair("jane")
    message = world.unauthenticated(jane, (("authorization", "Bearer ci-ci"),))
    assert "a client certificate and a token: it must have one of them" in message


def test_the_listener_of_tokens_asks_for_no_certificate(world: World) -> None:
    with world.models(world.pair("jane"), world.served.address) as models:
        refused(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", models.List, LIST)
        token = (("authorization", "Bearer ci-ci"),)
        assert not models.List(LIST, metadata=token, timeout=PATIENCE_SECONDS).services


def of_the_ca(logged: Sequence[Any]) -> list[Any]:
    return [line for line in logged if "client CA" in line["event"]]


def unauthenticated_end(stream: Any) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        list(stream)
    refusal = refusal_of(raised.value)
    assert refusal.reason == "UNAUTHENTICATED", refusal
    return refusal.message


def test_an_open_stream_and_later_calls_end_when_the_certificate_expires(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        world.models(world.pair("jane", ends=dt.timedelta(hours=1))) as models,
        watching(models, namespace=HERE) as stream,
    ):
        assert kinds(stream.take(1)) == ["SYNCED"]
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
        monkeypatch.setattr(client_certificates, "_now", lambda: later)
        assert "has expired" in unauthenticated_end(stream.call)
        refused(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", models.List, LIST)


def test_a_ca_that_is_replaced_lets_its_clients_in_and_those_of_the_one_before_no_longer(
    world: World,
) -> None:
    other = Authority("the CA of clients")
    with world.models(world.pair("jane")) as models, watching(models, namespace=HERE) as stream:
        assert kinds(stream.take(1)) == ["SYNCED"]
        with capture_logs() as logged:
            world.trust(other.pem)
            assert "must be from a CA" in unauthenticated_end(stream.call)
            eventually("it is logged", lambda: bool(of_the_ca(logged)))
        assert [line["event"] for line in of_the_ca(logged)] == ["client CA replaced"]
        refused(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", models.List, LIST)
    world.refused_connection(world.pair("jane"))
    with world.models(other.issue("jane")) as models:
        assert not models.List(LIST, timeout=PATIENCE_SECONDS).services


def test_a_further_ca_lets_its_clients_in_beside_the_others(world: World) -> None:
    other = Authority("another CA of clients")
    jane = other.issue("jane")
    with world.models(world.pair("jane")) as models, watching(models, namespace=HERE) as stream:
        assert kinds(stream.take(1)) == ["SYNCED"]
        world.trust(world.clients.pem + other.pem)

        def lets_in() -> bool:
            with world.models(jane) as others:
                try:
                    return others.List(LIST, timeout=PATIENCE_SECONDS) is not None
                except grpc.RpcError:
                    return False

        eventually("clients of the further CA get in", lets_in)
        models.Deploy(deploy("iris", namespace=HERE), timeout=PATIENCE_SECONDS)
        assert (stream.next().service.name, stream.call.is_active()) == ("iris", True)


def twice_a_ca() -> bytes:
    """The certificate of a CA that says so twice, which RFC 5280 forbids."""
    der = ssl.PEM_cert_to_DER_cert(Authority("x").issue("jane", ["localhost"])[0].decode())
    names, constraints = bytes.fromhex("0603551d11"), bytes.fromhex("0603551d13")
    assert names in der
    return ssl.DER_cert_to_PEM_cert(der.replace(names, constraints)).encode()


BROKEN = {
    "an extension twice": (twice_a_ca(), "must have certificates of CAs in PEM"),
    "garbage": (b"garbage", "must have certificates of CAs in PEM"),
    "empty": (b"", "is empty"),
    "too large": (b" " * (MOST_BYTES + 1), "must have at most 65536 bytes"),
    "no CA": (Authority("x").issue("jane")[0], "each certificate must be one of a CA"),
}


def test_a_broken_ca_changes_nothing_and_is_logged_once(world: World) -> None:
    jane = world.pair("jane")
    for content, problem in BROKEN.values():
        with capture_logs() as logged:
            world.trust(content)
            eventually("it is logged", lambda: len(of_the_ca(logged)) == 1)
            with world.models(jane) as models:
                assert not models.List(LIST, timeout=PATIENCE_SECONDS).services
            world.trust(world.clients.pem)
            eventually("it is mended", lambda: len(of_the_ca(logged)) == 2)
        broken, replaced = of_the_ca(logged)
        assert replaced["event"] == "client CA replaced"
        assert (broken["event"], broken["log_level"]) == ("client CA cannot be replaced", "error")
        assert broken["problem"].startswith(f"MODELSERVICE_CLIENT_CA: {world.ca}")
        assert problem in broken["problem"]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_server_does_not_start_with_a_broken_ca(
    kind: str, files: TlsFiles, tmp_path: Path
) -> None:
    content, problem = BROKEN[kind]
    ca, tokens = tmp_path / "clients.crt", tmp_path / "tokens.toml"
    ca.write_bytes(content)
    tokens.write_text(entry("ci"))
    made = settings(
        serving=files.setting | {"mtls_listen": "127.0.0.1:0", "client_ca": str(ca)},
        identity=identity(tokens),
    )
    with pytest.raises(SettingsInvalid, match=f"^MODELSERVICE_CLIENT_CA: .*{problem}"):
        Served(made).start()


def test_the_listener_of_client_certificates_serves_the_new_certificate_too(world: World) -> None:
    with world.models(world.pair("jane")) as models, watching(models, namespace=HERE) as stream:
        assert kinds(stream.take(1)) == ["SYNCED"]
        world.files.wait_until_served(world.served.address, world.files.renew())
        world.files.wait_until_served(world.address, world.files.content[0])
        models.Deploy(deploy("iris", namespace=HERE), timeout=PATIENCE_SECONDS)
        assert stream.next().service.name == "iris"
