"""The feed tells the latest state of every service, through whatever happens to the API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.status.pods.failure_log import LogRequest
from server.control.watch_cache import WatchCache
from server.domain.errors import ServiceError, ViewNotReady
from server.domain.rollout.status import FailureReason, State
from server.domain.service.commands import Delete
from server.domain.service.inference_service import InferenceService, ServiceKey
from tests.adapters.kserve.scripted_server import ScriptedServer, answering
from tests.adapters.kserve.waiting import eventually
from tests.contracts.world import Changed, Follower, Gone, Synced, following
from tests.patience import PATIENCE_SECONDS

REFLECTOR = "server.adapters.kserve.informers.reflector"
SERVICES = "/apis/serving.kserve.io/v1beta1/inferenceservices"
DEPLOYMENTS = "/apis/apps/v1/deployments"
PODS = "/api/v1/pods"
IRIS = ServiceKey("team-a", "iris")


def service(
    uid: str = "s1", generation: int = 1, name: str = "iris", image: str = "serve:1"
) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": IRIS.namespace,
            "name": name,
            "uid": uid,
            "generation": generation,
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": image}]}},
    }


def labelled(uid: str, name: str = "iris", **more: Any) -> dict[str, Any]:
    labels = {"serving.kserve.io/inferenceservice": name}
    meta = {"namespace": IRIS.namespace, "name": uid, "uid": uid, "labels": labels}
    return {"metadata": meta, **more}


class Told(Follower):
    """What a sink has been told so far."""

    def __init__(self, feed: StatusFeed) -> None:
        super().__init__()
        self.feed = feed
        self.ended = asyncio.Event()
        self.ended_by: BaseException | None = None
        self.removed: list[ServiceKey] = []

    def remove(self, key: ServiceKey) -> None:
        self.removed.append(key)
        super().remove(key)

    @property
    def is_synced(self) -> bool:
        return Synced() in self.events

    def changes(self, key: ServiceKey = IRIS) -> list[InferenceService]:
        found = [e.service for e in self.events if isinstance(e, Changed)]
        return [s for s in found if s.key == key]

    def last(self, key: ServiceKey = IRIS) -> InferenceService | None:
        changes = self.changes(key)
        return changes[-1] if changes else None

    def generation(self, key: ServiceKey = IRIS) -> int:
        last = self.last(key)
        return last.generation if last else 0

    async def follow(self) -> None:
        try:
            await self.feed.follow(self)
        finally:
            self.ended.set()


@asynccontextmanager
async def followed(api: ApiServer, feed: StatusFeed | None = None) -> AsyncIterator[Told]:
    told = Told(feed or StatusFeed(api, []))
    consuming = asyncio.create_task(told.follow())
    try:
        yield told
    finally:
        consuming.cancel()
        await asyncio.wait([consuming])
        told.ended_by = None if consuming.cancelled() else consuming.exception()


async def test_what_is_there_comes_first_then_synced_then_changes(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service("s1"))
    await server.put(SERVICES, service("s2", name="roses"))
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        assert [type(e) for e in told.events] == [Changed, Changed, Synced]

        await server.put(SERVICES, service("s1", generation=2))
        await eventually(lambda: told.generation() == 2, PATIENCE_SECONDS)
        assert told.generation(ServiceKey("team-a", "roses")) == 1


async def test_nothing_is_told_before_every_kind_is_listed(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service())
    server.list_faults.extend([answering(500)] * 3)
    async with followed(api) as told:
        await eventually(lambda: server.count("watch") >= 4, PATIENCE_SECONDS)
        assert told.feed.age() is None
        assert told.events == []
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        assert told.feed.age() is not None


async def test_nothing_is_kept_of_what_comes_and_goes_before_every_kind_is_listed(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service())
    held_up = asyncio.Event()

    async def hold(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        await held_up.wait()
        return await server.list(request)

    server.list_faults.append(hold)
    async with followed(api) as told:
        views, cache = told.feed._views, told.feed.object_cache
        await eventually(lambda: server.count("watch") >= 4, PATIENCE_SECONDS)
        for number in range(100):
            passing = service(f"p{number}", name=f"passing-{number}")
            told.feed.put_written(passing)
            told.feed.put_deleted(passing)
        parsed = cache._parse_caches._caches
        kept = (told.feed._changes._keys, views._histories, parsed, cache._texts)
        assert [key for each in kept for key in each if key != IRIS] == []
        held_up.set()
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        assert told.removed == []


async def test_a_storm_of_changes_is_told_once(server: ScriptedServer, api: ApiServer) -> None:
    await server.put(SERVICES, service())
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        before = len(told.changes())
        for generation in range(2, 202):
            changed = WatchEvent("MODIFIED", service(generation=generation))
            told.feed.object_cache.changed(Resource(Kind.SERVICES, ""), changed)
        await eventually(lambda: told.generation() == 201, PATIENCE_SECONDS)
        assert len(told.changes()) - before == 1


async def test_a_recreated_service_is_gone_and_then_a_new_one(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service("s1", generation=5))
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        await server.remove(SERVICES, "s1")
        await server.put(SERVICES, service("s2", generation=1))
        await eventually(lambda: told.generation() == 1, PATIENCE_SECONDS)
        gone = told.events.index(Gone(IRIS, "s1"))
        assert all(e.service.uid == "s2" for e in told.events[gone:] if isinstance(e, Changed))


async def test_a_writes_answer_is_told_at_once_and_never_taken_back(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(generation=1))
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        answered = told.feed.put_written(service(generation=3))
        assert answered
        assert told.last() is answered

        await server.put(SERVICES, service(generation=2))
        await server.put(SERVICES, service(generation=4))
        await eventually(lambda: told.generation() == 4, PATIENCE_SECONDS)
        generations = [s.generation for s in told.changes()]
        assert generations == sorted(generations)


async def test_a_deletion_that_nothing_holds_is_told_at_once_and_never_taken_back(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service("s1"))
    cluster = KServeCluster(api)

    async def delete(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        assert request.method == "DELETE"
        return web.json_response({"kind": "Status", "status": "Success"})

    async with following(cluster) as told:
        server.list_faults.append(delete)
        deleted = await cluster.delete(Delete(IRIS, force=True))
        assert deleted.status.state is State.DELETING
        assert told.events[-1] == Gone(IRIS, "s1")

        await server.put(SERVICES, service("s1", generation=2))
        await server.remove(SERVICES, "s1")
        await server.put(SERVICES, service("s2"))
        await told.until("the service made anew", lambda: told.latest(IRIS))
    assert [change.uid for change in told.history(IRIS)] == ["s1", "s1", "s2"]


async def test_an_inference_service_is_not_parsed_again_where_only_its_pods_change(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(generation=1))
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        before = told.feed.object_cache.parsed(IRIS)
        await server.put(PODS, labelled("pod-1"))
        await eventually(lambda: _has_pods(told.feed), PATIENCE_SECONDS)
        assert told.feed.object_cache.parsed(IRIS) is before

        await server.put(SERVICES, service(generation=2))
        await eventually(lambda: told.generation() == 2, PATIENCE_SECONDS)
        assert told.feed.object_cache.parsed(IRIS) is not before


def _has_pods(feed: StatusFeed) -> bool:
    observed = feed.object_cache.observed(IRIS)
    return bool(observed and observed.pods)


@pytest.mark.parametrize(
    "broken", [{"spec": 5}, {"status": {"conditions": "none"}}, {"spec": {"template": []}}]
)
async def test_what_cannot_be_understood_of_one_service_does_not_keep_the_others_from_being_told(
    server: ScriptedServer, api: ApiServer, broken: dict[str, Any]
) -> None:
    await server.put(SERVICES, service("s1"))
    await server.put(SERVICES, service("s2", name="roses"))
    bad = labelled("d1", **broken)
    bad["metadata"]["name"] = "iris-predictor"
    await server.put(DEPLOYMENTS, bad)
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        assert told.last()
        await server.put(SERVICES, service("s2", generation=2, name="roses"))
        await eventually(
            lambda: told.generation(ServiceKey("team-a", "roses")) == 2, PATIENCE_SECONDS
        )


async def test_a_bug_ends_the_feed_loudly(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)

        def bug(*_: object) -> None:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(ObjectCache, "changed", bug)
        await server.put(SERVICES, service())
        await asyncio.wait_for(told.ended.wait(), PATIENCE_SECONDS)
    assert isinstance(told.ended_by, ExceptionGroup)


async def test_through_an_outage_the_age_grows_and_soon_after_it_the_view_is_current(
    server: ScriptedServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service("s1"))
    await server.put(SERVICES, service("s2", name="roses"))
    async with followed(api) as told:
        await eventually(lambda: told.is_synced and told.feed.reachable(), PATIENCE_SECONDS)
        await server.stop()
        await eventually(lambda: not told.feed.reachable(), PATIENCE_SECONDS)
        await server.put(SERVICES, service("s1", generation=2))
        await server.remove(SERVICES, "s2")
        await eventually(lambda: _age(told) > 4, PATIENCE_SECONDS)

        await server.start()
        await eventually(
            lambda: (
                told.generation() == 2
                and Gone(ServiceKey("team-a", "roses"), "s2") in told.events
                and _age(told) < 3
                and told.feed.reachable()
            ),
            PATIENCE_SECONDS,
        )


async def test_a_black_hole_ages_the_view_and_ends_without_a_trace(
    server: ScriptedServer, api: ApiServer
) -> None:
    """Open connections stay open, new ones are taken, and nothing is answered."""
    await server.put(SERVICES, service())
    async with followed(api) as told:
        await eventually(lambda: told.is_synced and told.feed.reachable(), PATIENCE_SECONDS)
        server.black_hole()
        await eventually(lambda: not told.feed.reachable(), PATIENCE_SECONDS)
        aged = _age(told)
        await eventually(lambda: _age(told) > aged + 0.9, PATIENCE_SECONDS)

        server.held_up.set()
        await eventually(lambda: told.feed.reachable() and _age(told) < 3, PATIENCE_SECONDS)
        await server.put(SERVICES, service(generation=2))
        await eventually(lambda: told.generation() == 2, PATIENCE_SECONDS)


def _age(told: Told) -> float:
    return (told.feed.age() or timedelta(0)).total_seconds()


async def test_time_alone_changes_a_state_when_it_is_due(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "server.domain.rollout.state_table.NO_CONTROLLER_AFTER", timedelta(seconds=3)
    )
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        await server.put(SERVICES, service())
        await eventually(lambda: told.last() is not None, PATIENCE_SECONDS)
        first = told.last()
        assert first
        assert (first.status.state, first.status.failure) == (State.PENDING, None)
        await eventually(lambda: _reason(told) is FailureReason.NO_CONTROLLER, PATIENCE_SECONDS)


def _reason(told: Told) -> FailureReason | None:
    last = told.last()
    return last.status.failure.reason if last and last.status.failure else None


async def test_a_failures_log_is_fetched_once_and_told_with_it(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = LogRequest("pod-1", "team-a", "main", previous=True, restart_count=1)
    monkeypatch.setattr(
        "server.domain.rollout.state_table.NO_CONTROLLER_AFTER", timedelta(seconds=0)
    )
    monkeypatch.setattr(
        "server.adapters.kserve.informers.service_views.failure_log_request", lambda *_: wanted
    )
    server.texts["/api/v1/namespaces/team-a/pods/pod-1/log"] = "loading\nout of luck\n"
    await server.put(PODS, labelled("pod-1", spec={"containers": [{"name": "main"}]}))
    await server.put(SERVICES, service())
    async with followed(api) as told:
        await eventually(lambda: _log_lines(told) == ("loading", "out of luck"), PATIENCE_SECONDS)
        for generation in (2, 3):
            await server.put(SERVICES, service(generation=generation))
        await eventually(lambda: told.generation() == 3, PATIENCE_SECONDS)
        assert _log_lines(told) == ("loading", "out of luck")
    assert server.count("text") == 1


def _log_lines(told: Told) -> Iterable[str]:
    last = told.last()
    return last.status.failure.log_lines if last and last.status.failure else ()


async def test_closing_the_feed_leaves_nothing_running(
    server: ScriptedServer, api: ApiServer
) -> None:
    before = asyncio.all_tasks()
    await server.put(SERVICES, service())
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        assert {t.get_name() for t in asyncio.all_tasks()} >= {"probe", "log fetcher 0"}
    left = {t for t in asyncio.all_tasks() - before if "aiohttp" not in repr(t)}
    assert {t.get_name() for t in left} & {"probe"} == set()
    assert not [t for t in left if t.get_name().startswith(("reflector", "log fetcher"))]


async def test_a_feed_can_be_opened_again(server: ScriptedServer, api: ApiServer) -> None:
    await server.put(SERVICES, service())
    feed = StatusFeed(api, [])
    for generation in (1, 2):
        await server.put(SERVICES, service(generation=generation))
        async with followed(api, feed) as told:
            await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        assert [s.generation for s in told.changes()] == [generation]


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (403, "SERVER_LACKS_RIGHTS", "the ModelService service account may not list pods"),
        (404, "KSERVE_MISSING", "KServe is not installed"),
    ],
)
async def test_before_the_first_listing_reads_are_told_what_is_refused_for_a_while(
    server: ScriptedServer,
    api: ApiServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    reason: str,
    words: str,
) -> None:
    monkeypatch.setattr(f"{REFLECTOR}.REFUSED_FOR_GOOD_AFTER", 0.2)
    path = PODS if status == 403 else SERVICES

    async def refuse(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        server.list_faults.append(refuse)
        refuses = request.path == path
        return await (answering(status)(server, request) if refuses else server.list(request))

    server.list_faults.append(refuse)
    cluster = KServeCluster(api)
    view = WatchCache(cluster.refusal)
    following = asyncio.create_task(cluster.follow(view))
    with pytest.raises(ViewNotReady):
        view.require_synced()
    await eventually(lambda: cluster.refusal() is not None, PATIENCE_SECONDS)
    with pytest.raises(ServiceError, match=words) as refused:
        view.require_synced()
    assert refused.value.reason == reason

    server.list_faults.clear()
    await eventually(lambda: view.synced, PATIENCE_SECONDS)
    assert cluster.refusal() is None
    following.cancel()


async def test_without_kserves_resources_it_keeps_asking_and_starts_when_they_come(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.absent.add(SERVICES)
    async with followed(api) as told:
        await eventually(lambda: told.feed.reachable(), PATIENCE_SECONDS)
        await eventually(lambda: server.count("list") > 10, PATIENCE_SECONDS)
        assert not told.is_synced
        server.absent.clear()
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
