"""A collection that a cluster may have, or get, or lose, is followed while it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers import reflector as reflecting_module
from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.reflector import Reflector
from server.adapters.kserve.informers.watch_stream import WatchEvent
from tests.adapters.kserve.reflecting import running_reflector
from tests.adapters.kserve.scripted_server import ScriptedServer, answering
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

REVISIONS = Resource(Kind.REVISIONS, "team-a")
PATH = "/apis/serving.knative.dev/v1/namespaces/team-a/revisions"
GROUP = "/apis/serving.knative.dev/v1"


class Copy:
    """What has been told: the uids, or None while there is said to be nothing to follow."""

    def __init__(self) -> None:
        self.uids: set[str] | None = set()
        self.absences = 0

    def listing_begins(self) -> int:
        return 0

    def needs_list(self, resource: Resource) -> bool:
        return False

    def listed(self, resource: Resource, objects: Sequence[dict[str, Any]], began: int) -> None:
        self.uids = {o["metadata"]["uid"] for o in objects}

    def absent(self, resource: Resource) -> None:
        self.uids = None
        self.absences += 1

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        assert self.uids is not None
        self.uids.add(event.object["metadata"]["uid"])


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflecting_module, "LOOK_AGAIN_AFTER", 0.2)


@asynccontextmanager
async def reflecting(api: ApiServer) -> AsyncIterator[tuple[Copy, Reflector]]:
    copy = Copy()
    async with running_reflector(api, REVISIONS, copy) as reflector:
        yield copy, reflector


def revision(uid: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "name": uid, "namespace": "team-a"}}


async def test_where_it_is_absent_nothing_is_listed_and_nothing_is_waited_for(
    server: ScriptedServer, api: ApiServer
) -> None:
    async with reflecting(api) as (copy, reflector):
        await asyncio.wait_for(reflector.synced.wait(), PATIENCE_SECONDS)
        assert copy.uids is None
        await eventually(lambda: server.count("group") > 2, PATIENCE_SECONDS)
    assert server.count("list") == 0, "to list what is not there is refused where no rule allows it"


async def test_it_is_followed_from_when_it_appears(server: ScriptedServer, api: ApiServer) -> None:
    async with reflecting(api) as (copy, reflector):
        await asyncio.wait_for(reflector.synced.wait(), PATIENCE_SECONDS)
        await server.put(PATH, revision("r1"))
        server.groups[GROUP] = ["services", "revisions"]
        await eventually(lambda: copy.uids == {"r1"}, PATIENCE_SECONDS)
        await server.put(PATH, revision("r2"))
        await eventually(lambda: copy.uids == {"r1", "r2"}, PATIENCE_SECONDS)


async def test_of_a_group_that_lacks_it_nothing_is_listed(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.groups[GROUP] = ["services"]
    async with reflecting(api) as (copy, reflector):
        await asyncio.wait_for(reflector.synced.wait(), PATIENCE_SECONDS)
        assert copy.uids is None
    assert server.count("list") == 0


async def test_once_it_is_gone_nothing_is_held_of_it(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.groups[GROUP] = ["services", "revisions"]
    await server.put(PATH, revision("r1"))
    async with reflecting(api) as (copy, reflector):
        await eventually(lambda: copy.uids == {"r1"}, PATIENCE_SECONDS)
        del server.groups[GROUP]
        server.absent.add(PATH)
        reflector.reconnect()
        await eventually(lambda: copy.uids is None, PATIENCE_SECONDS)


async def test_what_may_not_be_read_is_absent_until_it_may(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.groups[GROUP] = ["services", "revisions"]
    server.list_faults.extend([answering(403)] * 3)
    await server.put(PATH, revision("r1"))
    async with reflecting(api) as (copy, reflector):
        await asyncio.wait_for(reflector.synced.wait(), PATIENCE_SECONDS)
        assert copy.uids is None
        await eventually(lambda: copy.uids == {"r1"}, PATIENCE_SECONDS)


async def test_one_refusal_as_of_an_api_server_that_starts_loses_nothing_that_is_held(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflecting_module, "LOOK_AGAIN_AFTER", PATIENCE_SECONDS)
    server.groups[GROUP] = ["services", "revisions"]
    await server.put(PATH, revision("r1"))
    async with reflecting(api) as (copy, reflector):
        await eventually(lambda: copy.uids == {"r1"}, PATIENCE_SECONDS)
        watches = server.count("watch")
        server.list_faults.append(answering(403))
        server.watch_faults.append(answering(403))
        reflector.reconnect()
        await eventually(lambda: server.count("watch") > watches + 1, PATIENCE_SECONDS)
        await server.put(PATH, revision("r2"))
        await eventually(lambda: copy.uids == {"r1", "r2"}, PATIENCE_SECONDS)
        assert copy.absences == 0


async def test_while_it_is_absent_the_view_grows_no_older(
    server: ScriptedServer, api: ApiServer
) -> None:
    async with reflecting(api) as (_, reflector):
        await asyncio.wait_for(reflector.synced.wait(), PATIENCE_SECONDS)
        before = reflector.current_at
        await eventually(lambda: server.count("group") > 2, PATIENCE_SECONDS)
        assert reflector.current_at > before
