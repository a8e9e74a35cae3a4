"""What has failed is tried at once when it is deployed again, as the remedies say."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from server.adapters.local.model_files import download
from server.adapters.local.state_dir import PARTIAL_SUFFIX
from server.domain.rollout.status import FailureReason, State
from server.domain.service.commands import Action
from server.domain.service.inference_service import InferenceServiceSpec
from tests.adapters.local.serving import BRISK
from tests.adapters.local.world import World, eventually, servers_of, world_of
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Nothing is tried again by itself while a test looks on."""
    hour = timedelta(hours=1)
    timeouts = replace(BRISK, first_retry=hour, longest_retry=hour, stop=timedelta(seconds=1))
    async with world_of(tmp_path, timeouts) as world:
        yield world


async def failed(world: World, spec: InferenceServiceSpec) -> FailureReason:
    await world.deploy(spec)
    status = (await world.until(State.FAILED)).status
    assert status.failure
    return status.failure.reason


async def ready_when_deployed_again(world: World, spec: InferenceServiceSpec) -> None:
    again = await world.deploy(spec)
    assert again.action is Action.UNCHANGED
    assert again.service.status.state is State.PROGRESSING
    assert again.service.status.failure is None
    ready = await world.until(State.READY)
    assert ready.rollout == again.rollout
    assert len(servers_of(world)) == 1


async def test_a_model_that_was_corrected_at_its_source_is_fetched_again(world: World) -> None:
    spec = world.model(exit=1)
    assert await failed(world, spec) is FailureReason.MODEL_LOAD
    assert world.model() == spec, "another file of the same name"
    await ready_when_deployed_again(world, spec)


async def test_a_retry_that_still_downloads_does_not_bring_back_what_was_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    corrected = threading.Event()

    def slowly(place: Path) -> None:
        """Write the first download to disk only once the next one is there."""
        folder = place if place.name.endswith(PARTIAL_SUFFIX) else place.parent
        if folder not in folders:
            folders.append(folder)
        if folder == folders[0]:
            corrected.wait(PATIENCE_SECONDS)
        else:
            corrected.set()
            ends = time.monotonic() + PATIENCE_SECONDS
            while folders[0].exists() and time.monotonic() < ends:
                time.sleep(0.01)

    monkeypatch.setattr(download, "sync", slowly)
    async with world_of(tmp_path) as world:
        spec = world.model(exit=1)
        (tmp_path / "1.json").rename(tmp_path / "later.json")
        assert await failed(world, spec) is FailureReason.STORAGE_DOWNLOAD
        (tmp_path / "later.json").rename(tmp_path / "1.json")
        await eventually("the retry's download", lambda: folders)
        world.model()
        await ready_when_deployed_again(world, spec)


async def test_a_model_that_was_not_there_is_looked_for_at_once(world: World) -> None:
    spec = world.model()
    (world.folder / "1.json").unlink()
    assert await failed(world, spec) is FailureReason.STORAGE_DOWNLOAD
    world.model()
    await ready_when_deployed_again(world, spec)


async def test_a_server_that_runs_without_its_model_is_replaced(world: World) -> None:
    spec = world.model(unready=True, says="iris has loaded")
    assert await failed(world, spec) is FailureReason.MODEL_LOAD
    world.model()
    await ready_when_deployed_again(world, spec)


async def test_a_second_failure_is_reported_again(world: World) -> None:
    spec = world.model(exit=1)
    assert await failed(world, spec) is FailureReason.MODEL_LOAD
    for _ in range(3):
        assert (await world.deploy(spec)).service.status.state is State.PROGRESSING
    assert await failed(world, spec) is FailureReason.MODEL_LOAD


async def test_a_copy_that_was_ready_stays_whatever_becomes_of_its_source(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        spec = world.model()
        await world.ready(spec)
        [copy] = (tmp_path / "state" / "work").rglob("1.json")
        kept = copy.read_text()
        copy.write_text('{"exit": 1}')
    (tmp_path / "1.json").unlink()
    hour = timedelta(hours=1)
    async with world_of(tmp_path, replace(BRISK, first_retry=hour, longest_retry=hour)) as world:
        await world.until(State.FAILED)
        copy.write_text(kept)
        await ready_when_deployed_again(world, spec)


async def test_neither_a_validation_nor_what_serves_is_disturbed(world: World) -> None:
    spec = world.model(exit=1)
    assert await failed(world, spec) is FailureReason.MODEL_LOAD
    validated = await world.deploy(spec, validate_only=True)
    assert validated.service.status.state is State.FAILED
    good = world.model("good")
    await world.ready(good)
    before = servers_of(world)
    assert (await world.deploy(good)).service.status.state is State.READY
    assert servers_of(world) == before


@pytest.mark.usefixtures("short_probes")
async def test_a_server_that_only_hangs_for_now_is_left_to_come_back(world: World) -> None:
    spec = world.model()
    await world.ready(spec)
    [server] = servers_of(world)
    server.suspend()
    await world.when("its silence", lambda s: s.status.failure)
    assert (await world.deploy(spec)).service.status.failure
    server.resume()
    await world.until(State.READY)
    assert servers_of(world) == [server]
