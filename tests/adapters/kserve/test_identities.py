"""Reviews by the API server: how many are made, how long their results last, and its silence.

The API server is a double: time and its silence cannot be had otherwise. tests/cluster has the
real one.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from server.adapters.kserve.client import Answer, Unanswered
from server.adapters.kserve.identity import identities as limits
from server.adapters.kserve.identity.identities import KubernetesIdentities
from server.adapters.kserve.identity.reviews import Reviews, expiry_of
from server.domain.caller import Access, BearerToken, Caller, Resource
from server.domain.errors import (
    ClusterUnavailable,
    ServerLacksRights,
    TooManyRequests,
    Unauthenticated,
)
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

OUTAGE = timedelta(minutes=10)
READS = Access("get", Resource.SERVICES, "models")
USER = {
    "username": "system:serviceaccount:team:ci",
    "uid": "u-1",
    "groups": ["system:serviceaccounts", "system:authenticated"],
    "extra": {"authentication.kubernetes.io/pod-name": ["pod-1"]},
}
CALLER = Caller(
    USER["username"],
    uid="u-1",
    groups=("system:serviceaccounts", "system:authenticated"),
    extra=(("authentication.kubernetes.io/pod-name", ("pod-1",)),),
)


class ApiServer:
    """Accepts the tokens in `valid` and the accesses in `rights`, unless it answers `status` or is
    silent."""

    def __init__(self) -> None:
        self.valid, self.rights = {"good"}, {READS}
        self.audiences: list[str] | None = ["modelservice"]
        self.silent, self.status = False, 201
        # Reviews of other tokens wait for it.
        self.release: asyncio.Event | None = None
        # Reviews of rights wait for it too; so many do.
        self.holds_rights, self.holding = False, 0
        self.sent: list[Mapping[str, Any]] = []

    async def send(self, method: str, path: str, *, body: Any, timeout: float) -> Answer:
        self.sent.append(body)
        await asyncio.sleep(0)
        if self.silent:
            raise Unanswered("TimeoutError")
        spec = body["spec"]
        if body["kind"] == "TokenReview":
            known = spec["token"] in self.valid
            if self.release and not known:
                await self.release.wait()
            status = {"authenticated": known, "user": USER, "audiences": self.audiences}
            return Answer(self.status, {}, {"status": status if known else {}})
        named = spec["resourceAttributes"]
        if self.release and self.holds_rights:
            self.holding += 1
            await self.release.wait()
            self.holding -= 1
        resource = Resource(f"{named['resource']}.{named['group']}")
        access = Access(named["verb"], resource, named["namespace"], named["name"])
        return Answer(self.status, {}, {"status": {"allowed": access in self.rights}})

    def reviews(self) -> int:
        """How many came since the last time."""
        sent, self.sent = self.sent, []
        return len(sent)


class World:
    def __init__(self) -> None:
        self.api, self.now = ApiServer(), 1000.0
        reviews: Any = Reviews(self.api, "modelservice")  # type: ignore[arg-type]
        self.identities = KubernetesIdentities(reviews, "modelservice", OUTAGE, lambda: self.now)

    async def authenticate(self, token: str = "good", **how: bool) -> Caller:
        return await self.identities.authenticate(BearerToken(token), **how)

    async def allows(self, **how: bool) -> bool:
        return await self.identities.allows(CALLER, READS, **how)


@pytest.fixture
def world() -> World:
    return World()


def jwt(expires: datetime) -> str:
    claims = json.dumps({"exp": int(expires.timestamp())}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"


async def test_a_first_call_takes_one_review_of_each_kind_and_further_ones_none(
    world: World,
) -> None:
    for _ in range(3):
        assert await world.authenticate() == CALLER
        assert await world.allows()
    token, access = world.api.sent
    assert token["spec"] == {"token": "good", "audiences": ["modelservice"]}
    assert access["spec"] == {
        "user": USER["username"],
        "uid": "u-1",
        "groups": USER["groups"],
        "extra": USER["extra"],
        "resourceAttributes": {
            "verb": "get",
            "group": "serving.kserve.io",
            "resource": "inferenceservices",
            "subresource": "",
            "namespace": "models",
            "name": "",
        },
    }


async def test_a_storm_of_one_token_is_one_review(world: World) -> None:
    await asyncio.gather(*(world.authenticate() for _ in range(100)))
    assert world.api.reviews() == 1
    await asyncio.gather(*(world.allows() for _ in range(100)))
    assert world.api.reviews() == 1


async def test_a_caller_that_leaves_does_not_end_the_review_of_the_others(world: World) -> None:
    leaves, stays = (asyncio.create_task(world.authenticate()) for _ in range(2))
    while not world.api.sent:
        await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == CALLER
    assert world.api.reviews() == 1


async def test_what_is_allowed_lasts_a_minute_and_what_is_denied_ten_seconds(world: World) -> None:
    assert await world.allows()
    with pytest.raises(Unauthenticated):
        await world.authenticate("bad")
    world.api.reviews()
    world.now += 9
    with pytest.raises(Unauthenticated):
        await world.authenticate("bad")
    assert world.api.reviews() == 0
    world.now += 2
    world.api.valid.add("bad")
    assert await world.authenticate("bad") == CALLER
    world.now += 48
    world.api.reviews()
    world.api.rights.clear()
    assert await world.allows()
    assert world.api.reviews() == 0
    world.now += 2
    assert not await world.allows()


async def test_what_is_asked_for_afresh_is_some_seconds_old_at_most(world: World) -> None:
    assert await world.allows()
    world.api.rights.clear()
    world.now += 4
    assert await world.allows(fresh=True)
    world.now += 2
    assert not await world.allows(fresh=True)
    assert not await world.allows()


async def test_while_the_api_server_is_silent_who_was_allowed_stays_so_for_the_outage(
    world: World,
) -> None:
    assert await world.authenticate() == CALLER
    assert await world.allows()
    world.api.silent = True
    world.now += 61
    for _ in range(3):
        assert await world.authenticate() == CALLER
        assert await world.allows(fresh=True)
        with pytest.raises(ClusterUnavailable):
            await world.authenticate("unknown")
        world.now += 179
    world.now += 3
    with pytest.raises(ClusterUnavailable):
        await world.authenticate()
    with pytest.raises(ClusterUnavailable):
        await world.allows()
    world.api.silent = False
    assert await world.authenticate() == CALLER
    assert await world.allows()


async def test_after_a_silence_it_is_asked_again_in_the_background(world: World) -> None:
    assert await world.allows()
    world.api.silent = True
    world.now += 61
    assert await world.allows()
    world.api.silent = False
    world.api.rights.clear()
    world.api.reviews()
    world.now += 4
    assert await world.allows()
    assert world.api.reviews() == 0
    world.now += 2
    assert await world.allows()
    while await world.allows():
        await asyncio.sleep(0)
    assert world.api.reviews() == 1


async def test_a_token_is_not_used_past_its_own_end(world: World) -> None:
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(seconds=2)
    world.api.valid |= {jwt(soon), jwt(past)}
    assert (await world.authenticate(jwt(soon))).expires == soon.replace(microsecond=0)
    world.api.reviews()
    with pytest.raises(Unauthenticated):
        await world.authenticate(jwt(past))
    assert world.api.reviews() == 0


@pytest.mark.parametrize("silent", [False, True])
async def test_a_cached_token_ends_at_its_time(
    world: World, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    token = jwt(datetime.now(UTC) + timedelta(minutes=50))
    world.api.valid.add(token)
    assert (await world.authenticate(token)).expires
    world.api.silent = silent
    monkeypatch.setattr(limits, "datetime", Later)
    with pytest.raises(Unauthenticated):
        await world.authenticate(token)


@pytest.mark.parametrize("audiences", [None, [], ["https://kubernetes.default.svc"]])
async def test_a_token_without_our_audience_is_refused(
    world: World, audiences: list[str] | None
) -> None:
    world.api.audiences = audiences
    with pytest.raises(Unauthenticated):
        await world.authenticate()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_error_of_the_api_server_is_no_refusal(world: World, status: int) -> None:
    assert await world.authenticate() == CALLER
    world.api.status = status
    world.now += 61
    assert await world.authenticate() == CALLER
    with pytest.raises(ClusterUnavailable):
        await world.authenticate("unknown")


async def test_callers_outlast_a_server_that_may_not_review_for_the_outage(world: World) -> None:
    assert await world.authenticate() == CALLER
    assert await world.allows()
    world.api.status = 403
    world.now += 61
    for fresh in (True, False):
        assert await world.authenticate(fresh=fresh) == CALLER
        assert await world.allows(fresh=fresh)
    world.now += OUTAGE.total_seconds()
    with pytest.raises(ServerLacksRights):
        await world.authenticate()
    with pytest.raises(ServerLacksRights):
        await world.allows()


async def test_a_server_that_may_not_review_says_so(world: World) -> None:
    world.api.status = 403
    with pytest.raises(ServerLacksRights, match="may not create tokenreviews"):
        await world.authenticate()
    with pytest.raises(ServerLacksRights, match="may not create subjectaccessreviews"):
        await world.allows()


async def test_a_flood_of_unknown_tokens_is_bounded_and_known_callers_are_served(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await world.authenticate() == CALLER
    world.api.reviews()
    monkeypatch.setattr(limits, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(limits, "UNKNOWN_WAITING", 3000)
    flood = [asyncio.create_task(world.authenticate(f"bad-{n}")) for n in range(3000)]
    world.now += 61
    assert await world.authenticate() == CALLER
    refused = await asyncio.gather(*flood, return_exceptions=True)
    kinds = {type(error) for error in refused}
    assert kinds == {Unauthenticated, TooManyRequests}
    # The burst, and what the seconds that this took have added to it.
    assert world.api.reviews() < 3000


@pytest.mark.parametrize("same", [False, True], ids=["tokens", "token"])
async def test_calls_that_wait_for_reviews_of_unknown_tokens_are_bounded(
    world: World, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNKNOWN_WAITING", 100)
    assert await world.authenticate() == CALLER
    with pytest.raises(Unauthenticated):
        await world.authenticate("denied")
    world.api.release = asyncio.Event()
    names = ["bad" if same else f"bad-{number}" for number in range(1000)]
    flood = [asyncio.create_task(world.authenticate(name)) for name in names]
    await eventually(lambda: sum(task.done() for task in flood) >= 900, PATIENCE_SECONDS)
    done, waiting = await asyncio.wait(flood, timeout=0.1)
    assert (len(done), len(waiting)) == (900, 100)
    assert {type(task.exception()) for task in done} == {TooManyRequests}
    with pytest.raises(Unauthenticated):
        await world.authenticate("denied")
    world.now += 61
    assert await world.authenticate() == CALLER
    # Calls whose clients leave make room.
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    world.api.release.set()
    with pytest.raises(Unauthenticated):
        await world.authenticate("bad-another")


async def test_a_thousand_callers_at_once_after_a_restart_are_all_let_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The seconds that its pace takes are not waited for.
    monkeypatch.setattr(limits, "UNKNOWN_A_SECOND", 100_000)
    world = World()
    world.api.valid = {f"token-{number}" for number in range(1000)}
    callers = [world.authenticate(token) for token in sorted(world.api.valid)]
    assert await asyncio.gather(*callers) == [CALLER] * 1000
    assert world.api.reviews() == 1000


async def test_an_api_server_that_does_not_answer_keeps_nobody_waiting_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await world.authenticate() == CALLER
    assert await world.allows()
    world.now += 61
    monkeypatch.setattr(limits, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(limits, "KNOWN_WAIT_SECONDS", 0.05)
    world.api.release = asyncio.Event()
    world.api.holds_rights = True
    flood = [asyncio.create_task(world.authenticate(f"bad-{number}")) for number in range(30)]
    others = [replace(CALLER, name=f"other-{number}") for number in range(30)]
    flood += [asyncio.create_task(world.identities.allows(other, READS)) for other in others]
    done, held = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < 20:
        more, held = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    errors = Counter(type(task.exception()) for task in done)
    assert errors == {TooManyRequests: 10, ClusterUnavailable: 10}
    # Known tokens take no slots of unknown ones, and known rights stay.
    assert await world.authenticate() == CALLER
    assert await world.allows()
    world.api.release.set()
    await asyncio.wait(held)


async def test_a_caller_that_asks_for_many_rights_does_not_delay_the_others(world: World) -> None:
    world.api.release = asyncio.Event()
    world.api.holds_rights = True
    greedy = replace(CALLER, name="greedy")
    asked = [
        asyncio.create_task(
            world.identities.allows(greedy, READS._replace(namespace=f"n-{number}"))
        )
        for number in range(100)
    ]
    while world.api.holding < limits.REVIEWS_OF_CALLER_AT_ONCE:
        await asyncio.sleep(0)
    world.api.holds_rights = False
    assert await world.allows()
    assert world.api.holding == limits.REVIEWS_OF_CALLER_AT_ONCE
    world.api.release.set()
    assert not any(await asyncio.gather(*asked))


@pytest.mark.parametrize("answers", [True, False])
async def test_a_flood_of_its_own_prolongs_no_right_but_a_silent_api_server_does(
    world: World, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KNOWN_WAIT_SECONDS", 0.5)
    assert await world.allows()
    world.api.rights.clear()
    world.now += 61
    first = world.api.release = asyncio.Event()
    world.api.holds_rights = True
    flood = [
        asyncio.create_task(
            world.identities.allows(CALLER, READS._replace(namespace=f"n-{number}"))
        )
        for number in range(2 * limits.REVIEWS_OF_CALLER_AT_ONCE)
    ]
    while world.api.holding < limits.REVIEWS_OF_CALLER_AT_ONCE:
        await asyncio.sleep(0)
    asked = asyncio.create_task(world.allows())
    for _ in range(5):
        await asyncio.sleep(0)
    # Those that come after the first ones wait for it.
    world.api.release = asyncio.Event()
    if answers:
        first.set()
        with pytest.raises(TooManyRequests, match="this caller asks for too many rights"):
            await asked
    else:
        assert await asked
    first.set()
    world.api.release.set()
    assert not any(await asyncio.gather(*flood))


def test_namespaces_that_bind_the_user_by_name_come_before_those_of_its_groups() -> None:
    bound = {USER["username"]: {"own", "both"}, "system:authenticated": {"a-group", "both"}}
    reviews: Any = None
    identities = KubernetesIdentities(
        reviews,
        "modelservice",
        OUTAGE,
        bound=lambda names: {each for name in names for each in bound.get(name, ())},
    )
    assert identities.likely_namespaces(CALLER) == ("both", "own", "a-group")


async def test_garbage_displaces_nothing_that_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_TOKENS", 3)
    world = World()
    assert await world.authenticate() == CALLER
    for number in range(10):
        with pytest.raises(Unauthenticated):
            await world.authenticate(f"bad-{number}")
    world.api.reviews()
    assert await world.authenticate() == CALLER
    assert world.api.reviews() == 0
    assert len(world.identities._callers._denied) == 3


@pytest.mark.parametrize(
    "token",
    ["a.b.c", "a.e30.c", "a.W10.c", "a.eyJleHAiOiJ4In0.c", "a.eyJleHAiOjFlOTl9.c", "x", ".."],
)
def test_a_token_that_is_no_jwt_with_an_end_has_none(token: str) -> None:
    assert expiry_of(BearerToken(token)) is None
