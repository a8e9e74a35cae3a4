"""Rollouts: the old generation serves until the new one does, and no request is lost."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from server.adapters.local.rollouts.generation import Generation
from server.domain.errors import ServiceDeleting
from server.domain.rollout.status import FailureReason, State
from server.domain.service.commands import STOP_ANNOTATION, Action
from server.domain.service.inference_service import (
    RECREATE,
    InferenceService,
    ModelFormat,
    ModelPredictor,
    RolloutStrategy,
    Scaling,
)
from tests.adapters.local.load import load
from tests.adapters.local.world import IRIS, World, children_of, eventually, servers_of
from tests.patience import PATIENCE_SECONDS


async def test_five_rollouts_under_load_lose_no_request(world: World) -> None:
    service = await world.ready(world.model("0", predict_seconds=0.01))
    async with load(service.status.url) as under:
        for number in range(1, 6):
            await under.goes_on()
            service = await world.ready(world.model(str(number), predict_seconds=0.01))
    assert under.failed == []
    assert set(under.served) >= {"1", "2", "3", "4", "5"}
    await eventually("one server", lambda: len(servers_of(world)) == 1)


async def test_requests_in_flight_are_answered_by_the_generation_that_took_them(
    world: World,
) -> None:
    arrived = world.folder / "arrived"
    old = await world.ready(world.model("old", predict_seconds=1, arrived=str(arrived)))
    async with load(old.status.url, callers=2) as under:
        await eventually("a request in flight", arrived.exists)
        new = await world.ready(world.model("new", predict_seconds=0))
        assert await world.generation_of(new) == 2
        assert len(servers_of(world)) == 2, "the old one still answers"
        await eventually("the answers of both", lambda: {"1", "2"} <= set(under.served))
    assert under.failed == []
    await eventually("one server", lambda: len(servers_of(world)) == 1)


async def test_a_generation_that_ends_leaves_the_next_one_room_for_its_model(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, delete_files = os.mkdir, Generation.delete_files
    made, deleted = threading.Event(), threading.Event()

    def mkdir_slowly(path: str | Path, *mode: int) -> None:
        mkdir(path, *mode)
        if Path(path).parent == world.folder / "state" / "work":
            made.set()
            assert deleted.wait(PATIENCE_SECONDS)

    async def delete_files_slowly(generation: Generation) -> None:
        await asyncio.to_thread(made.wait, PATIENCE_SECONDS)
        await delete_files(generation)
        deleted.set()

    monkeypatch.setattr(os, "mkdir", mkdir_slowly)
    monkeypatch.setattr(Generation, "delete_files", delete_files_slowly)
    spec = world.model()
    assert isinstance(spec.predictor, ModelPredictor)
    unknown = replace(spec.predictor, format=ModelFormat("unknown"))
    await world.deploy(replace(spec, predictor=unknown))
    await world.until(State.FAILED)
    await world.deploy(spec)
    service = await world.until(State.READY, State.FAILED, generation=2)
    assert service.status.failure is None


async def test_what_fails_leaves_the_old_generation_serving(world: World) -> None:
    old = await world.ready(world.model("good"))
    await world.deploy(world.model("bad", exit=1, says="RuntimeError: broken"))
    degraded = await world.until(State.DEGRADED)
    status = degraded.status
    assert status.serving
    assert status.failure
    assert status.failure.reason is FailureReason.MODEL_LOAD
    assert status.failure.rollout_id == degraded.rollout.id
    assert status.latest_ready_generation == old.generation
    assert [share.revision for share in status.components[0].traffic] == ["iris-predictor-1"]
    assert await world.generation_of(degraded) == 1
    good = await world.ready(world.model("better"))
    assert await world.generation_of(good) == 3
    assert good.status.url == old.status.url
    await eventually("one server", lambda: len(servers_of(world)) == 1)


async def test_a_rollout_that_recreates_ends_the_old_server_before_it_starts_its_own(
    world: World,
) -> None:
    recreate = RolloutStrategy(RECREATE)
    arrived = world.folder / "arrived"
    old = await world.ready(world.model("old", predict_seconds=1, arrived=str(arrived)))
    async with load(old.status.url, callers=1) as under:
        await eventually("a request in flight", arrived.exists)
        new = replace(world.model("new", load_seconds=1), rollout_strategy=recreate)
        applied = await world.deploy(new)
        generation = applied.service.generation
        while (latest := await world.when("any", bool)).status.state is not State.READY:
            assert not latest.status.serving
            assert len(servers_of(world)) <= 1
            await asyncio.sleep(0.05)
        assert latest.generation == generation
        await eventually("an answer of each", lambda: {"1", "2"} <= set(under.served))

    bad = world.model("bad", exit=1, says="RuntimeError: broken")
    await world.deploy(replace(bad, rollout_strategy=recreate))
    failed = await world.until(State.FAILED)
    assert not failed.status.serving
    # What was stopped does not come back beside a later rollout.
    last = await world.ready(world.model("last"))
    assert await world.generation_of(last) == 4
    assert {s.generation for s in _that_served(world, failed.generation)} == {4}


async def test_a_deploy_that_leaves_the_model_server_as_it_is_recreates_nothing(
    world: World,
) -> None:
    spec = world.model(load_seconds=1)
    service = await world.ready(spec)
    recreates = replace(spec, rollout_strategy=RolloutStrategy(RECREATE))
    scaled = replace(recreates, scaling=Scaling(max_replicas=3))
    since = len(world.told.events)
    async with load(service.status.url) as under:
        await world.ready(recreates)
        await world.ready(scaled)
        await world.ready(scaled, labels={"team": "a"})
    assert under.failed == []
    told = [s for s in world.told.history(IRIS, since) if isinstance(s, InferenceService)]
    assert {s.generation for s in told} >= {2, 3, 4}
    assert all(s.status.serving for s in told)
    await eventually("one server", lambda: len(servers_of(world)) == 1)


def _that_served(world: World, since: int) -> list[InferenceService]:
    """What was told of the generations from `since` on while something served."""
    told = [s for s in world.told.history(IRIS) if isinstance(s, InferenceService)]
    return [s for s in told if s.generation >= since and s.status.serving]


async def test_a_newer_deploy_ends_one_that_is_still_loading(world: World) -> None:
    await world.ready(world.model("good"))
    await world.deploy(world.model("slow", load_seconds=60))
    await eventually("the slow one", lambda: len(servers_of(world)) == 2)
    last = await world.ready(world.model("last"))
    assert await world.generation_of(last) == 3
    await eventually("one server", lambda: len(servers_of(world)) == 1)


async def test_no_generation_is_ready_before_its_own_server(world: World) -> None:
    await world.ready(world.model("old"))
    await world.deploy(world.model("new", load_seconds=1))
    latest = await world.when("the new one", lambda s: s.generation == 2)
    while latest.status.state is not State.READY:
        assert latest.status.serving
        assert await world.generation_of(latest) in (1, 2)
        await asyncio.sleep(0.05)
        latest = await world.when("anything", lambda s: True)
    assert await world.generation_of(latest) == 2


async def test_a_restart_replaces_the_server_and_nothing_else(world: World) -> None:
    before = await world.ready(world.model())
    [old] = servers_of(world)
    restarted = await world.deploy(None, restart=True)
    assert restarted.action is Action.RESTARTED
    after = await world.told.ready(IRIS, restarted.service.generation)
    assert (after.spec, after.status.url) == (before.spec, before.status.url)
    await eventually(
        "another server", lambda: [p.pid for p in servers_of(world)] not in ([old.pid], [])
    )


async def test_a_stopped_service_has_no_process_until_it_is_started_again(world: World) -> None:
    spec = world.model()
    first = await world.ready(spec)
    await world.deploy(spec, annotations={STOP_ANNOTATION: "true"})
    stopped = await world.until(State.STOPPED)
    assert servers_of(world) == []
    assert not stopped.status.serving
    async with world.session.get(first.status.url) as response:
        assert response.status == 503
        assert "STOPPED" in await response.text()
    started = await world.ready(spec, annotations={STOP_ANNOTATION: "false"})
    assert started.status.url == first.status.url
    assert len(servers_of(world)) == 1


async def test_a_deleted_service_leaves_nothing(world: World) -> None:
    service = await world.ready(world.model(child=True))
    state = world.folder / "state"
    assert len(children_of(state)) == 2
    await world.gone()
    assert children_of(state) == []
    assert list((world.folder / "state" / "services").iterdir()) == []
    assert list((world.folder / "state" / "work").iterdir()) == []
    with pytest.raises(aiohttp.ClientConnectorError):
        await world.ask(service)


async def test_a_deletion_during_a_rollout_ends_the_old_and_the_one_that_loads(
    world: World,
) -> None:
    await world.ready(world.model("good"))
    await world.deploy(world.model("slow", load_seconds=60))
    await eventually("both servers", lambda: len(servers_of(world)) == 2)
    await world.gone()
    assert servers_of(world) == []
    assert list((world.folder / "state" / "services").iterdir()) == []
    assert list((world.folder / "state" / "work").iterdir()) == []


async def test_a_deletion_lets_requests_in_flight_end(world: World) -> None:
    arrived = world.folder / "arrived"
    service = await world.ready(world.model(predict_seconds=1, arrived=str(arrived)))
    url = f"{service.status.url}/v2/models/iris/infer"
    answer = asyncio.create_task(_post(world, url))
    await eventually("a request in flight", arrived.exists)
    gone = asyncio.create_task(world.gone())
    assert (await answer)["server"]
    with pytest.raises(ServiceDeleting):
        await world.deploy(world.model("2"))
    await gone


async def test_until_something_is_ready_the_address_says_why_not(world: World) -> None:
    applied = await world.deploy(world.model(load_seconds=60))
    url = applied.service.status.url
    await world.when("loading", lambda s: s.status.message == "loading the model")
    async with world.session.get(url) as response:
        assert response.status == 503
        told = (await response.json())["error"]
    assert told == "model-serving/iris is PROGRESSING: loading the model"


async def test_each_service_has_ports_of_its_own(world: World) -> None:
    services: list[InferenceService] = []
    for number in range(5):
        key = IRIS._replace(name=f"iris-{number}")
        services.append(await world.ready(world.model(str(number)), key))
    assert len({s.status.url for s in services}) == 5
    answers = {(await world.ask(s))["name"].split("/")[1] for s in services}
    assert answers == {s.key.name for s in services}


async def _post(world: World, url: str) -> dict[str, object]:
    async with world.session.post(url, data=b"x") as response:
        told: dict[str, object] = await response.json()
        return told
