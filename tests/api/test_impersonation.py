"""Acting for others, by the metadata `impersonate-user` and `impersonate-group`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1.model_service_pb2 import ListRequest, WatchStatusRequest
from structlog.testing import capture_logs

from server.control import authorizer
from server.domain.caller import Access, BearerToken, Caller, Resource
from server.domain.errors import Unauthenticated
from tests.patience import PATIENCE_SECONDS
from tests.refusals import Refusal, refusal_of
from tests.serving import serving, settings

from .requests import eventually, kinds
from .test_rights import answer
from .token_files import Client, entry, identity, token_of

HERE = "team-a"
LIST = ListRequest(namespace=HERE)
RISK = "system:serviceaccount:risk:ci"


class Rights:
    """Tokens are their users, and rights are those of a set: a double of the API server's reviews,
    since the file of tokens lets nobody act for others."""

    def __init__(self) -> None:
        self.given: set[tuple[str, str, str, str]] = set()
        self.asked: list[tuple[Caller, Access]] = []

    async def authenticate(self, token: BearerToken, *, fresh: bool = False) -> Caller:
        if token.reveal() == "garbage":
            raise Unauthenticated("no")
        return Caller(token.reveal(), groups=("portals",))

    def knows(self, token: BearerToken) -> bool:
        return True

    async def allows(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
        self.asked.append((caller, access))
        for who in (caller.name, *caller.groups):
            if (who, access.verb, access.namespace, access.name) in self.given:
                return True
        return False

    def remedy(self, caller: Caller, access: Access) -> str:
        return f"check with: {access.kubectl_check(caller)}"


@pytest.fixture
def rights() -> Rights:
    """The portal may act for jane, a ServiceAccount and the group risk. Jane may list."""
    rights = Rights()
    rights.given |= {
        ("portal", "impersonate", "", "jane"),
        ("portal", "impersonate", "risk", "ci"),
        ("portal", "impersonate", "", "risk"),
        ("portal", "impersonate", "", "system:masters"),
        ("jane", "list", HERE, ""),
        ("jane", "watch", HERE, ""),
    }
    return rights


@pytest.fixture
def portal(rights: Rights, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(authorizer, "RECHECK", authorizer.RECHECK / 600)
    identities: Any = rights
    with (
        serving(settings(), identities=identities) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        served.wait_until_synced()
        yield Client(channel, "Bearer portal")


def acting(*named: str) -> list[tuple[str, str]]:
    """Metadata: the user, then the groups."""
    return [("impersonate-user", name) for name in named[:1]] + [
        ("impersonate-group", name) for name in named[1:]
    ]


def refused(client: Client, code: StatusCode, metadata: list[tuple[str, str]]) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        client.models.List(LIST, metadata=metadata)
    refusal = refusal_of(raised.value)
    assert refusal.code is code, refusal
    return refusal


def test_a_portal_acts_with_the_rights_of_the_user_and_both_are_in_the_log(
    portal: Client, rights: Rights
) -> None:
    refused(portal, StatusCode.PERMISSION_DENIED, [])
    with capture_logs() as logged:
        assert not portal.models.List(LIST, metadata=acting("jane", "risk")).services
    caller, _ = rights.asked[-1]
    assert (caller.name, caller.groups) == ("jane", ("risk", "system:authenticated"))
    [line] = [line for line in logged if line["event"] == "call"]
    assert (line["user"], line["on_behalf_of"]) == ("portal", "jane")


def test_the_user_has_no_right_of_the_portal(portal: Client, rights: Rights) -> None:
    rights.given = {("portal", "impersonate", "", "jane"), ("portal", "list", HERE, "")}
    assert not portal.models.List(LIST).services
    refusal = refused(portal, StatusCode.PERMISSION_DENIED, acting("jane"))
    assert refusal.message.startswith("the user 'jane' may not list")


@pytest.mark.parametrize(
    ("named", "lacks", "check"),
    [
        (("joe",), "users 'joe'", "users/joe"),
        (("jane", "ops"), "groups 'ops'", "groups/ops"),
        (("jane", "risk", "ops"), "groups 'ops'", "groups/ops"),
        (
            ("system:serviceaccount:risk:cd",),
            "serviceaccounts 'cd' in the nam",
            "serviceaccounts/cd",
        ),
    ],
)
def test_a_user_or_group_that_a_portal_may_not_impersonate_is_denied(
    portal: Client, rights: Rights, named: tuple[str, ...], lacks: str, check: str
) -> None:
    refusal = refused(portal, StatusCode.PERMISSION_DENIED, acting(*named))
    assert f"the user 'portal' may not impersonate {lacks}" in refusal.message
    assert f"kubectl auth can-i impersonate {check} " in refusal.message
    assert "project" not in refusal.metadata


@pytest.mark.parametrize(
    "named", [("jane", "system:masters"), ("system:anonymous",), ("jane", "system:unauthenticated")]
)
def test_some_are_never_impersonated(
    portal: Client, rights: Rights, named: tuple[str, ...]
) -> None:
    rights.given |= {("portal", "impersonate", "", name) for name in named}
    refusal = refused(portal, StatusCode.PERMISSION_DENIED, acting(*named))
    assert "nobody may act as that here" in refusal.message


def test_a_service_account_has_the_groups_that_kubernetes_gives_it(
    portal: Client, rights: Rights
) -> None:
    refused(portal, StatusCode.PERMISSION_DENIED, acting(RISK))
    caller, _ = rights.asked[-1]
    assert (caller.name, caller.groups) == (
        RISK,
        ("system:serviceaccounts", "system:serviceaccounts:risk", "system:authenticated"),
    )
    # Groups that are named take their place, as in Kubernetes.
    refused(portal, StatusCode.PERMISSION_DENIED, acting(RISK, "risk"))
    assert rights.asked[-1][0].groups == ("risk", "system:authenticated")


@pytest.mark.parametrize(
    ("metadata", "field", "problem"),
    [
        ([("impersonate-group", "risk")], "impersonate-user", "must be set"),
        (acting("jane") + acting("joe"), "impersonate-user", "must be there once, got it 2 times"),
        ([("impersonate-user", "")], "impersonate-user", "must have 1 to 253"),
        ([("impersonate-user", "x" * 254)], "impersonate-user", "must have 1 to 253"),
        (acting("jane", *["g"] * 101), "impersonate-group", "at most 100 times, got 101"),
        (
            [*acting("jane"), ("impersonate-uid", "1")],
            "impersonate-uid",
            "must be impersonate-user",
        ),
        ([*acting("jane"), ("impersonate-extra-a", "1")], "impersonate-extra-a", "must be"),
    ],
)
def test_metadata_that_names_a_user_wrongly_is_invalid(
    portal: Client, metadata: list[tuple[str, str]], field: str, problem: str
) -> None:
    refusal = refused(portal, StatusCode.INVALID_ARGUMENT, metadata)
    assert refusal.fields == [f"metadata.{field}"]
    assert problem in refusal.problems[0]


def test_a_watch_ends_when_the_right_to_impersonate_is_taken_away(
    portal: Client, rights: Rights
) -> None:
    request = WatchStatusRequest(namespace=HERE)
    stream = portal.models.WatchStatus(request, metadata=acting("jane"))
    try:
        assert kinds([next(stream)]) == ["SYNCED"]
        rights.given -= {("portal", "impersonate", "", "jane")}
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
    finally:
        stream.cancel()
    refusal = refusal_of(raised.value)
    assert (refusal.code, refusal.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert "may not impersonate users 'jane'" in refusal.message


class SlowRights(Rights):
    """Reviews of the right to impersonate wait."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def allows(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
        allows = await super().allows(caller, access, fresh=fresh)
        if access.verb == "impersonate":
            await self.go_on.wait()
        return allows


def test_no_right_to_impersonate_is_asked_for_beyond_the_limits_of_the_portal() -> None:
    rights: Any = SlowRights()
    limits = {"caller_rate": 100, "caller_max_calls": 2}
    with (
        serving(settings(serving=limits), identities=rights) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        served.wait_until_synced()
        portal = Client(channel, "Bearer portal")
        waiting = [
            portal.models.List.future(LIST, metadata=acting(name)) for name in ("ann", "bob")
        ]
        eventually("two are asked for", lambda: len(rights.asked) == 2)
        with pytest.raises(grpc.RpcError) as raised:
            portal.models.List(LIST, metadata=acting("joe"), timeout=PATIENCE_SECONDS)
        assert raised.value.code() is StatusCode.RESOURCE_EXHAUSTED
        assert {access.name for _, access in rights.asked} == {"ann", "bob"}
        served.inside(rights.go_on.set)
        for call in waiting:
            assert call.code() is StatusCode.PERMISSION_DENIED


def test_under_tokens_nobody_acts_for_others(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("ci", namespaces={"*": "admin"}, projects={"*": "admin"}))
    with (
        serving(settings(identity=identity(file))) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        served.wait_until_synced()
        client = Client(channel, f"Bearer {token_of('ci')}")
        assert answer(client, "List", LIST).code is StatusCode.OK
        refusal = refused(client, StatusCode.PERMISSION_DENIED, acting("ci"))
    assert "callers act for others only by MODELSERVICE_AUTH=kubernetes" in refusal.message


def test_the_resources_are_those_of_kubernetes_core_group() -> None:
    for resource in (Resource.USERS, Resource.GROUPS, Resource.SERVICE_ACCOUNTS):
        assert (resource.group, resource.plural, resource.subresource) == ("", resource.value, "")
