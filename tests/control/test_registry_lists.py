"""Listings of the registry: newest first, in pages, and what was deployed where and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.control.call import Call
from server.control.registry.pages import ItemPage, PagedList
from server.domain.errors import FieldInvalid, PageTokenInvalid
from server.domain.opaque_tokens import encode_token
from server.domain.registry.deployment import DeploymentFilter, DeploymentState, ModelDeployment
from server.domain.registry.registry_errors import DeploymentNotFound, InUse
from server.ports import Page
from tests.control.registry_control import Registering

PENDING, DEPLOYED, UNDEPLOYED = (
    DeploymentState.PENDING,
    DeploymentState.DEPLOYED,
    DeploymentState.UNDEPLOYED,
)

Read = Callable[[int, str], Awaitable[ItemPage[Any]]]


async def all_of(read: Read, size: int = 1000, cut: int = 1000) -> list[Any]:
    """Everything that is listed, by pages that end after `cut` items at most."""
    found: list[Any] = []
    token = ""
    while True:
        listed = await read(size, token)
        taken = listed.items[:cut]
        assert len(taken) <= size
        found += taken
        token = listed.token_after(len(taken))
        if not token:
            return found
        assert taken


def listings(registering: Registering) -> dict[str, Read]:
    project = registering.project
    return {
        "models": lambda size, token: registering.models.list(Call(), project, size, token),
        "versions": lambda size, token: registering.versions.list(
            Call(), registering.model(), size, token
        ),
        "environments": lambda size, token: registering.environments.list(
            Call(), project, size, token
        ),
        "deployments": lambda size, token: registering.deployments.list(
            Call(), DeploymentFilter(project), size, token
        ),
    }


async def seven_of_each(registering: Registering) -> dict[str, list[Any]]:
    """Oldest first."""
    made: dict[str, list[Any]] = {name: [] for name in listings(registering)}
    made["models"].append(await registering.new_model())
    for number in range(7):
        made["versions"].append(await registering.new_version(f"v{number}"))
        made["environments"].append(await registering.new_environment(f"e{number}"))
        if number:
            made["models"].append(await registering.new_model(f"m{number}"))
        record = await registering.deployed(made["versions"][-1].key, made["environments"][-1].key)
        made["deployments"].append(record)
    return made


@pytest.mark.parametrize("kind", ["models", "versions", "environments", "deployments"])
async def test_pages_of_any_size_cut_anywhere_are_the_whole_newest_first(
    registering: Registering, kind: str
) -> None:
    made = await seven_of_each(registering)
    read = listings(registering)[kind]
    for size in (1, 2, 3, 6, 7, 8):
        for cut in {1, 2, size}:
            assert await all_of(read, size, cut) == made[kind][::-1]


async def test_what_comes_and_goes_between_two_pages_neither_shifts_nor_repeats_the_others(
    registering: Registering,
) -> None:
    for number in range(6):
        await registering.new_model(f"m{number}")
    first = await registering.models.list(Call(), registering.project, 2, "")
    await registering.new_model("newer")
    for gone in ("m3", "m5"):
        await registering.models.delete(
            Call(), registering.model(gone), etag="", allow_missing=False
        )
    second = await registering.models.list(Call(), registering.project, 9, first.token_after(2))
    assert [m.key.name for m in first.items] == ["m5", "m4"]
    assert [m.key.name for m in second.items] == ["m2", "m1", "m0"]


async def test_a_page_token_is_for_its_own_listing_only(registering: Registering) -> None:
    await seven_of_each(registering)
    reads = listings(registering)
    other = DeploymentFilter(registering.project, states=frozenset({DEPLOYED}))
    reads["other deployments"] = lambda size, token: registering.deployments.list(
        Call(), other, size, token
    )
    reads["another project's"] = lambda size, token: registering.models.list(
        Call(), "other", size, token
    )
    for kind in ("models", "versions", "environments", "deployments"):
        token = (await reads[kind](2, "")).token_after(2)
        for another in reads.keys() - {kind}:
            with pytest.raises(PageTokenInvalid):
                await reads[another](2, token)


@pytest.mark.parametrize("position", [-1, 2**63, 10**400, "1", None, 1.5, [1]])
async def test_a_token_with_a_position_that_cannot_be_is_refused(
    registering: Registering, position: Any
) -> None:
    paged = PagedList("models", registering.project)
    token = paged.with_tokens(Page([1], [1, position])).token_after(1)
    with pytest.raises(PageTokenInvalid):
        await registering.models.list(Call(), registering.project, 10, token)


@given(st.text(max_size=30) | st.lists(st.integers() | st.text()).map(encode_token))
def test_no_text_is_a_page_token_by_chance(text: str) -> None:
    if text:
        with pytest.raises(PageTokenInvalid):
            PagedList("models", "risk").start(text)


async def test_a_project_that_nobody_used_has_nothing(registering: Registering) -> None:
    for read in (listings(registering)[kind] for kind in ("models", "environments", "deployments")):
        assert await all_of(read) == []
    with pytest.raises(FieldInvalid):
        await registering.models.list(Call(), "", 10, "")


async def history(registering: Registering) -> Sequence[ModelDeployment]:
    """Two versions, two environments, in this order: v1 to e1, v2 to e1, v2 to e2, v1 to e2."""
    await registering.new_model()
    for version in ("v1", "v2"):
        made = await registering.new_version(version)
    for environment in ("e1", "e2"):
        await registering.new_environment(environment)
    v1, v2 = registering.version("v1"), registering.version("v2")
    e1, e2 = registering.environment("e1"), registering.environment("e2")
    return [
        await registering.deployed(v1, e1, "a", state=UNDEPLOYED, end_time=made.create_time),
        await registering.deployed(v2, e1, "a", state=DEPLOYED),
        await registering.deployed(v2, e2, "b"),
        await registering.deployed(v1, e2, "c", state=DEPLOYED),
    ]


@pytest.mark.parametrize(
    ("narrowed", "expected"),
    [
        ({}, [3, 2, 1, 0]),
        ({"model": "fraud"}, [3, 2, 1, 0]),
        ({"model": "other"}, []),
        ({"version": "v2"}, [2, 1]),
        ({"environment": "e1"}, [1, 0]),
        ({"namespace": "e2"}, [3, 2]),
        ({"service": "a"}, [1, 0]),
        ({"states": frozenset({DEPLOYED})}, [3, 1]),
        ({"states": frozenset({PENDING, UNDEPLOYED})}, [2, 0]),
        ({"version": "v1", "states": frozenset({DEPLOYED})}, [3]),
        ({"environment": "e1", "states": frozenset({PENDING})}, []),
    ],
)
async def test_deployments_are_narrowed_by_each_filter(
    registering: Registering, narrowed: dict[str, Any], expected: list[int]
) -> None:
    records = await history(registering)
    wanted = DeploymentFilter(registering.project, **narrowed)
    found = await all_of(
        lambda size, token: registering.deployments.list(Call(), wanted, size, token), 1
    )
    assert found == [records[number] for number in expected]


async def test_what_was_deployed_between_two_times_leaves_out_both(
    registering: Registering,
) -> None:
    await registering.new_model()
    version, environment = await registering.new_version(), await registering.new_environment()
    records = [await registering.deployed(version.key, environment.key) for _ in range(4)]
    times = [record.create_time for record in records]

    async def between(after: int | None, before: int | None) -> list[ModelDeployment]:
        wanted = DeploymentFilter(
            registering.project,
            created_after=None if after is None else times[after],
            created_before=None if before is None else times[before],
        )
        return await all_of(
            lambda size, token: registering.deployments.list(Call(), wanted, size, token)
        )

    assert await between(0, 3) == records[2:0:-1]
    assert await between(1, None) == records[:1:-1]
    assert await between(None, 1) == records[:1]
    assert await between(2, 2) == []
    day = timedelta(days=1)
    later = DeploymentFilter(registering.project, created_after=times[3] + day)
    assert not (await registering.deployments.list(Call(), later, 10, "")).items


async def test_a_record_is_read_in_its_own_project_only(registering: Registering) -> None:
    record = (await history(registering))[0]
    assert await registering.deployments.get(Call(), registering.project, record.id) == record
    for project, named in (("other", record.id), (registering.project, str(uuid4()))):
        with pytest.raises(DeploymentNotFound):
            await registering.deployments.get(Call(), project, named)


async def delete(registering: Registering, kind: str) -> None:
    parts = {
        "model": (registering.models, registering.model()),
        "version": (registering.versions, registering.version()),
        "environment": (registering.environments, registering.environment()),
    }
    part, key = parts[kind]
    await part.delete(Call(), key, etag="", allow_missing=True)


@pytest.mark.parametrize("kind", ["model", "version", "environment"])
async def test_what_a_service_runs_is_not_deleted_until_its_record_ends(
    registering: Registering, kind: str
) -> None:
    await registering.new_model()
    version, environment = await registering.new_version(), await registering.new_environment()
    record = await registering.deployed(version.key, environment.key)
    with pytest.raises(InUse, match="in use by staging/fraud-staging: delete") as refusal:
        await delete(registering, kind)
    assert refusal.value.metadata == {"used_by": "staging/fraud-staging"}
    await registering.archive()
    await registering.undeployed(record)
    await delete(registering, kind)
    assert (await registering.deployments.get(Call(), registering.project, record.id)).end_time


async def test_of_many_users_five_are_named(registering: Registering) -> None:
    await registering.new_model()
    version, environment = await registering.new_version(), await registering.new_environment()
    for number in range(7):
        await registering.deployed(version.key, environment.key, f"s{number}")
    with pytest.raises(InUse, match="and others: delete these") as refusal:
        await delete(registering, "version")
    assert len(refusal.value.metadata["used_by"].split(", ")) == 5
