"""Tokens: calls without a valid one, and the file that says whose they are."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from modelservice.v1.model_service_pb2 import ListRequest, WatchStatusRequest
from structlog.testing import capture_logs

from server.adapters.token_file import MOST_BYTES, TokenFile, parse
from server.app import Application, anonymous_caller
from server.bounded_file import FileUnusable
from server.domain.caller import Access, BearerToken, Caller, Resource
from server.settings import SettingsInvalid
from tests.memory_cluster.cluster import MemoryCluster
from tests.refusals import refusal_of, refused
from tests.serving import Served, serving, settings

from .reflection_client import listed_services
from .test_settings import server
from .token_files import Client, digest, entry, identity, token_of, with_tokens

TOKEN = token_of("ci")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(entry("ci", namespaces={"*": "admin"}))
    with serving(settings(identity=identity(file))) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.address) as channel:
        yield channel


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        [TOKEN],
        [f"Basic {TOKEN}"],
        [f"Bearer {TOKEN} more"],
        [f"Bearer {TOKEN}x"],
        ["Bearer garbage"],
        [f"Bearer {'x' * 6 * 1024}"],
        [f"Bearer {'x' * 12 * 1024}"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        ["Bearer garbage", f"Bearer {TOKEN}"],
    ],
)
def test_a_call_without_one_valid_token_is_unauthenticated(
    channel: grpc.Channel, authorization: list[str]
) -> None:
    client = Client(channel, *authorization)
    refused(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", client.models.List, ListRequest())
    with pytest.raises(grpc.RpcError) as raised:
        next(client.models.WatchStatus(WatchStatusRequest()))
    assert refusal_of(raised.value).reason == "UNAUTHENTICATED"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_call_with_a_valid_token_is_answered(channel: grpc.Channel, scheme: str) -> None:
    assert not Client(channel, f"{scheme} {TOKEN}").models.List(ListRequest()).services


def test_health_and_reflection_take_no_token(channel: grpc.Channel) -> None:
    live = HealthStub(channel).Check(HealthCheckRequest(service="live"))
    assert live.status == HealthCheckResponse.SERVING
    assert "modelservice.v1.ModelService" in listed_services(channel)


def test_reflection_takes_a_token_where_a_setting_asks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("ci"))
    made = settings(identity=identity(file) | {"reflection": "authenticated"})
    with serving(made) as served, grpc.insecure_channel(served.address) as channel:
        for authorization in ([], ["Bearer garbage"]):
            with pytest.raises(grpc.RpcError) as raised:
                listed_services(with_tokens(channel, *authorization))
            assert refusal_of(raised.value).reason == "UNAUTHENTICATED"
        assert "modelservice.v1.ModelService" in listed_services(
            with_tokens(channel, f"Bearer {TOKEN}")
        )
        live = HealthStub(channel).Check(HealthCheckRequest(service="live"))
        assert live.status == HealthCheckResponse.SERVING


def test_reflection_for_callers_with_an_identity_takes_identities() -> None:
    with pytest.raises(SettingsInvalid, match="MODELSERVICE_REFLECTION: must be open"):
        settings(identity={"reflection": "authenticated"}).require_consistent()


@pytest.mark.parametrize(("auth", "identities"), [("kubernetes", None), ("none", TokenFile)])
def test_no_server_serves_openly_where_callers_must_have_an_identity_nor_the_other_way_round(
    auth: str, identities: Any
) -> None:
    with pytest.raises(ValueError, match=f"MODELSERVICE_AUTH={auth}"):
        Application(MemoryCluster(), settings(identity={"auth": auth}), identities=identities)


def test_the_cluster_holds_text_of_containers_back_only_where_callers_have_no_identity() -> None:
    """Where they have one, each caller's own right decides."""
    beyond = settings(serving={"listen": "0.0.0.0:50051", "allow_plaintext": True})
    for made, shown in (
        (settings(), False),
        (settings(identity={"auth": "none"}), False),
        (settings(identity={"auth": "kubernetes"}), True),
        (beyond, True),
    ):
        assert anonymous_caller(made).may_read_output("team-a", "a Secret") == shown, made.auth


def test_the_log_has_the_user_and_no_token(channel: grpc.Channel) -> None:
    with capture_logs() as logged:
        Client.of(channel, "ci").models.List(ListRequest())
        for wrong in (f"Bearer {TOKEN}-wrong", f"Basic {TOKEN}"):
            client = Client(channel, wrong)
            refused(
                StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", client.models.List, ListRequest()
            )
    assert [line.get("user") for line in logged if line["event"] == "call"] == ["ci", None, None]
    assert TOKEN not in str(logged)


def test_a_token_does_not_show_itself() -> None:
    token = BearerToken(TOKEN)
    assert TOKEN not in f"{token} {token!r} {[token]}"
    assert token.digest == digest(TOKEN)


async def test_a_broken_file_is_logged_once_and_the_one_in_use_stays(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("ci", namespaces={"a": "viewer"}))
    tokens = TokenFile(file)
    await tokens.file.load()
    reads = Access("get", Resource.SERVICES, "a")
    with capture_logs() as logged:
        for broken in ("[[user]]", f'{entry("ci")}more = "{TOKEN}"', "\0", ""):
            file.write_text(broken)
            for _ in range(4):
                tokens.file.check()
        file.unlink()
        for _ in range(4):
            tokens.file.check()
    assert [line["event"] for line in logged] == ["tokens cannot be replaced"] * 5
    assert TOKEN not in str(logged)
    assert await tokens.allows(await tokens.authenticate(BearerToken(TOKEN)), reads)
    file.write_text(entry("ci", namespaces={"b": "viewer"}))
    with capture_logs() as logged:
        for _ in range(4):
            tokens.file.check()
    assert [line["event"] for line in logged] == ["tokens replaced"]
    assert not await tokens.allows(Caller("ci"), reads)


async def test_content_that_is_still_being_written_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("ci"))
    tokens = TokenFile(file)
    await tokens.file.load()
    with capture_logs() as logged:
        for number in range(5):
            file.write_text(entry("ci") + "[[user" + "x" * number)
            tokens.file.check()
    assert not logged


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (entry("system:admin"), "user.0.name: must not begin with system:"),
        (entry("a b"), "user.0.name: must have 1 to 253 printable characters of ASCII"),
        (
            f'{entry("ci")}groups = ["system:masters"]',
            "user.0.groups.0: must not begin with system:",
        ),
        ('[[group]]\nname = "system:masters"', "group.0.name: must not begin with system:"),
        (f'[[user]]\nname = "ci"\nsha256 = ["{TOKEN}"]', "user.0.sha256.0: must be the SHA-256"),
        (entry("ci", namespaces={"A": "viewer"}), "user.0.namespaces.A.[key]: must "),
        (
            entry("ci", namespaces={"a": "owner"}),
            "user.0.namespaces.a: must be 'viewer', 'deployer' or 'admin'",
        ),
        (entry("ci", projects={"": "viewer"}), "user.0.projects..[key]: must "),
        (entry("ci") + entry("ci"), "there must be one user ci, and there are several"),
        (
            entry("ci") + entry("cd").replace(digest(token_of("cd")), digest(TOKEN)),
            "there must be one token with the sha256",
        ),
        ("[[user]", "it must be TOML: "),
        ("[" * 100_000, "it must "),
        ("x" * (MOST_BYTES + 1), f"must have at most {MOST_BYTES} bytes"),
        ("", "is empty"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, content: str, problem: str
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(content)
    with pytest.raises(FileUnusable) as raised:
        await TokenFile(file).file.load()
    assert str(raised.value).startswith("MODELSERVICE_TOKENS_FILE: ")
    assert problem in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_a_server_does_not_start_with_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsInvalid, match=r"MODELSERVICE_TOKENS_FILE: .* cannot be read"),
        serving(settings(identity=identity(tmp_path / "absent"))),
    ):
        pass


def test_roles_of_groups_and_users_add_up() -> None:
    group = (
        '[[group]]\nname = "risk"\nnamespaces = { a = "viewer" }\nprojects = { "*" = "admin" }\n'
    )
    tokens = parse(
        f'{entry("ci", namespaces={"b": "deployer"})}groups = ["risk"]\n{group}'.encode()
    )
    caller = tokens.callers[digest(TOKEN)]
    assert caller == Caller("ci", groups=("risk", "system:authenticated"))

    def verbs(namespace: str) -> str:
        every = ("get", "list", "watch", "create", "patch", "delete")
        allowed = (Access(verb, Resource.SERVICES, namespace) for verb in every)
        return " ".join(access.verb for access in allowed if tokens.allows(caller, access))

    assert (verbs("a"), verbs("b"), verbs("c"), verbs("")) == (
        "get list watch",
        "get list watch create patch delete",
        "",
        "",
    )
    assert tokens.allows(caller, Access("create", Resource.PROJECTS, name="any"))
    assert not tokens.allows(Caller("ci"), Access("get", Resource.PROJECTS, name="any"))


@pytest.mark.processes
def test_new_token_makes_an_entry_of_the_file() -> None:
    made = server("new-token", "ci-risk")
    assert made.returncode == 0
    (row,) = tomllib.loads(made.stdout)["user"]
    assert row == {"name": "ci-risk", "sha256": [digest(made.stderr.strip())]}
    assert parse(made.stdout.encode()).callers
    wrong = server("new-token", "system:admin")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "USER: must not begin with system:" in wrong.stderr


def test_the_file_and_the_kind_of_authentication_belong_together() -> None:
    with pytest.raises(ValueError, match="MODELSERVICE_TOKENS_FILE: must be set"):
        settings(identity={"auth": "tokens"})
    with pytest.raises(ValueError, match="MODELSERVICE_AUTH: must be tokens"):
        settings(identity={"tokens_file": "tokens.toml"})
