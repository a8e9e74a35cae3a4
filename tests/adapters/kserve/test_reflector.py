"""A reflector's copy catches up after whatever the API server and the network do to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.reflector import Reflector
from server.adapters.kserve.informers.watch_stream import WatchEvent
from tests.adapters.kserve.reflecting import running_reflector
from tests.adapters.kserve.scripted_server import (
    Fault,
    ScriptedServer,
    answering,
    cut_in_a_line,
    ending_at_once,
    event_line,
    expired_in_stream,
    html_200,
    html_500,
    never,
    streaming,
)
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

RESOURCE = Resource(Kind.PODS, "team-a", (("labelSelector", "app"),))
REFLECTOR = "server.adapters.kserve.informers.reflector."
PATH = "/api/v1/namespaces/team-a/pods"
# Ten times what one failure is aimed to cost, the longest pause included.


class Copy:
    """What a reflector has told, as the sink that it needs."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.doubt = False
        self.lists = 0

    def listing_begins(self) -> int:
        return 0

    def needs_list(self, resource: Resource) -> bool:
        doubt, self.doubt = self.doubt, False
        return doubt

    def listed(self, resource: Resource, objects: Sequence[dict[str, Any]], began: int) -> None:
        self.objects = {o["metadata"]["uid"]: o for o in objects}
        self.lists += 1

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        uid = event.object["metadata"]["uid"]
        if event.type == "DELETED":
            self.objects.pop(uid, None)
        else:
            self.objects[uid] = event.object


@asynccontextmanager
async def reflecting(api: ApiServer) -> AsyncIterator[tuple[Copy, Reflector]]:
    copy = Copy()
    async with running_reflector(api, RESOURCE, copy) as reflector:
        yield copy, reflector


def pod(uid: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "name": f"pod-{uid}", "namespace": "team-a"}, **more}


async def caught_up(server: ScriptedServer, copy: Copy) -> float:
    return await eventually(
        lambda: copy.objects == server.collections[PATH].objects, PATIENCE_SECONDS
    )


async def test_it_lists_at_once_and_a_large_collection_by_pages_and_then_follows_changes(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(8):
        await server.put(PATH, pod(f"u{n}"))
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        assert copy.objects == server.collections[PATH].objects
    assert server.count("list") == 1
    server.requests.clear()

    monkeypatch.setattr(REFLECTOR + "PAGE_SIZE", "3")
    monkeypatch.setattr(REFLECTOR + "LARGEST_WHOLE", 200)
    with capture_logs() as logged:
        async with reflecting(api) as (copy, reflector):
            await reflector.synced.wait()
    assert logged == [], "a large collection is no trouble"
    server.requests.clear()
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        assert copy.objects == server.collections[PATH].objects
        assert server.count("list") == 4, "one is too large, and three are pages"

        await server.put(PATH, pod("u1", spec={"changed": True}))
        await server.remove(PATH, "u2")
        await server.put(PATH, pod("u9"))
        await caught_up(server, copy)
    assert server.count("list") == 4, "what a watch tells needs no list"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(answering(410), id="410 by status"),
        pytest.param(expired_in_stream, id="410 in the stream"),
        pytest.param(answering(401), id="401"),
        pytest.param(answering(500), id="500"),
        pytest.param(answering(403), id="403"),
        pytest.param(html_500, id="500 with HTML"),
        pytest.param(html_200, id="200 with HTML"),
        pytest.param(ending_at_once, id="end of stream"),
        pytest.param(cut_in_a_line, id="a line cut in the middle"),
    ],
)
async def test_after_a_watch_that_failed_it_catches_up(
    server: ScriptedServer, api: ApiServer, fault: Fault
) -> None:
    await server.put(PATH, pod("kept"))
    await server.put(PATH, pod("deleted-meanwhile"))
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        await eventually(lambda: server.count("watch") == 1, PATIENCE_SECONDS)
        server.watch_faults.extend([fault, fault])
        await server.remove(PATH, "deleted-meanwhile")
        await server.put(PATH, pod("made-meanwhile"))
        reflector.reconnect()

        await eventually(lambda: not server.watch_faults, PATIENCE_SECONDS)
        await server.put(PATH, pod("made-after"))
        await caught_up(server, copy)


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"labels": {"a": 1}}, id="a label that is a number"),
        pytest.param({"uid": None}, id="a uid that is null"),
        pytest.param({"generation": "1"}, id="a generation that is a text"),
    ],
)
async def test_after_an_odd_event_it_watches_again(
    server: ScriptedServer, api: ApiServer, odd: dict[str, Any]
) -> None:
    """Write an event that no API server sends, once."""

    async def odd_event(_: ScriptedServer, request: web.Request) -> web.StreamResponse:
        response = await streaming(request)
        found = {"metadata": {**pod("odd")["metadata"], "resourceVersion": "999", **odd}}
        await response.write(event_line("ADDED", found))
        return response

    server.watch_faults.append(odd_event)
    async with reflecting(api) as (copy, _):
        await eventually(lambda: server.count("watch") == 2, PATIENCE_SECONDS)
        await server.put(PATH, pod("u1"))
        await caught_up(server, copy)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(answering(410), id="410"),
        pytest.param(answering(401), id="401"),
        pytest.param(answering(404), id="404, as while a server starts"),
        pytest.param(answering(429), id="429"),
        pytest.param(html_500, id="500 with HTML"),
        pytest.param(html_200, id="200 with HTML"),
    ],
)
async def test_a_list_that_failed_is_tried_again(
    server: ScriptedServer, api: ApiServer, fault: Fault
) -> None:
    await server.put(PATH, pod("u1"))
    server.list_faults.extend([fault, fault])
    async with reflecting(api) as (copy, _):
        await caught_up(server, copy)


async def test_after_a_list_that_was_cut_it_lists_at_once_again(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REFLECTOR + "PAGE_SIZE", "1")
    for n in range(3):
        await server.put(PATH, pod(f"u{n}"))
    server.list_faults.append(cut_in_a_line)
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        assert copy.objects == server.collections[PATH].objects
    assert server.count("list") == 2, "the one that was cut, and a whole one"


@pytest.mark.parametrize(
    "most", [pytest.param(2**20, id="at once"), pytest.param(1, id="in pages")]
)
async def test_of_many_collections_two_lists_or_pages_are_read_at_once(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(REFLECTOR + "PAGE_SIZE", "1")
    monkeypatch.setattr(REFLECTOR + "LARGEST_WHOLE", most)
    running, reflectors, resources = [0], [], [Resource(Kind.PODS, f"team-{n}") for n in range(6)]
    for resource in resources:
        for name in ("a", "b"):
            await server.put(resource.path, pod(name))

    async def counted(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        running.append(running[-1] + 1)
        await asyncio.sleep(0.05)
        running.append(running[-1] - 1)
        return await server.list(request)

    lists = 6 if most > 1 else 18
    server.list_faults.extend([counted] * lists)
    async with AsyncExitStack() as stack:
        for resource in resources:
            reflector = await stack.enter_async_context(running_reflector(api, resource, Copy()))
            reflectors.append(reflector)
        for reflector in reflectors:
            await reflector.synced.wait()
    assert len(running) == 1 + 2 * lists
    assert max(running) <= 2


async def test_410_lists_again_and_other_failures_only_resume(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(PATH, pod("u1"))
    server.watch_faults.extend([html_500, ending_at_once])
    async with reflecting(api) as (copy, _):
        await eventually(lambda: server.count("watch") == 3, PATIENCE_SECONDS)
        assert copy.lists == 1
        server.watch_faults.append(expired_in_stream)
        server.watch_faults.append(expired_in_stream)
        await server.stop()
        await server.start()
        await eventually(lambda: copy.lists == 3, PATIENCE_SECONDS)


async def test_streams_that_end_at_once_do_not_make_a_storm_of_connections(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.watch_faults.extend([ending_at_once] * 1000)
    async with reflecting(api):
        await asyncio.sleep(5)
    # Pauses double from 0.1 s to 2 s with half of it jitter: 10 at the most in 5 s.
    assert server.count("watch") <= 12
    assert server.count("list") == 1


async def test_retry_after_is_honoured(server: ScriptedServer, api: ApiServer) -> None:
    slow_down = answering(429, headers={"Retry-After": "3"})
    server.watch_faults.append(slow_down)
    began = time.monotonic()
    async with reflecting(api):
        await eventually(lambda: server.count("watch") == 2, PATIENCE_SECONDS)
    assert time.monotonic() - began >= 2.9


async def test_an_object_of_5_mb_comes_through(server: ScriptedServer, api: ApiServer) -> None:
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        await eventually(lambda: server.count("watch") == 1, PATIENCE_SECONDS)
        await server.put(PATH, pod("big", data="x" * 5_000_000))
        await caught_up(server, copy)
    assert server.count("watch") == 1, "in the stream that was open"


async def test_deleted_and_recreated_under_one_name_while_away(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(PATH, pod("old"))
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        await server.stop()
        await server.remove(PATH, "old")
        new = pod("new")
        new["metadata"]["name"] = "pod-old"
        await server.put(PATH, new)
        server.collections[PATH].history.clear()
        server.watch_faults.append(answering(410))
        await server.start()
        await caught_up(server, copy)
        assert set(copy.objects) == {"new"}


async def test_a_server_that_is_away_for_long_is_back_soon_after_its_return(
    server: ScriptedServer, api: ApiServer
) -> None:
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        await server.stop()
        await asyncio.sleep(5)
        await server.put(PATH, pod("made-meanwhile"))
        await server.start()
        await caught_up(server, copy)


async def test_a_black_hole_is_left_as_soon_as_it_is_told_to_reconnect(
    server: ScriptedServer, api: ApiServer
) -> None:
    async with reflecting(api) as (copy, reflector):
        await reflector.synced.wait()
        await eventually(lambda: server.count("watch") == 1, PATIENCE_SECONDS)
        server.watch_faults.append(never)
        reflector.reconnect()
        await eventually(lambda: server.count("watch") == 2, PATIENCE_SECONDS)
        await server.put(PATH, pod("unseen"))

        reflector.reconnect()
        await caught_up(server, copy)


async def test_a_silent_watch_is_given_up(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.adapters.kserve.informers.reflector.IDLE_TIMEOUT", 0.5)
    server.watch_faults.append(never)
    async with reflecting(api) as (copy, _):
        await server.put(PATH, pod("u1"))
        await caught_up(server, copy)


def is_confirmed(reflector: Reflector) -> bool:
    """Whether an answer of the API server shows now that the copy is current."""
    now = time.monotonic()
    reflector.confirm(now)
    return reflector.current_at == now


async def test_only_an_open_watch_lets_the_copy_be_vouched_for(
    server: ScriptedServer, api: ApiServer
) -> None:
    async with reflecting(api) as (_, reflector):
        await reflector.synced.wait()
        await eventually(lambda: is_confirmed(reflector), PATIENCE_SECONDS)
        await server.stop()
        await eventually(lambda: not is_confirmed(reflector), PATIENCE_SECONDS)


async def test_a_doubt_is_resolved_by_a_new_list(server: ScriptedServer, api: ApiServer) -> None:
    async with reflecting(api) as (copy, reflector):
        await eventually(lambda: is_confirmed(reflector), PATIENCE_SECONDS)
        copy.doubt = True
        reflector.confirm(time.monotonic())
        await eventually(lambda: copy.lists == 2, PATIENCE_SECONDS)
