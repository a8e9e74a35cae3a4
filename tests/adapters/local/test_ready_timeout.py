"""A ready_timeout decides how long a rollout may take, and ends no model server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.domain.rollout.status import FailureReason, State
from server.domain.service.commands import Action
from server.domain.service.inference_service import InferenceService
from tests.adapters.local.serving import BRISK
from tests.adapters.local.world import IRIS, World, eventually, servers_of, world_of

SECOND = timedelta(seconds=1)


def states(world: World) -> list[State]:
    """The states that were told of the service, each once in a row."""
    told = [s.status.state for s in world.told.history(IRIS) if isinstance(s, InferenceService)]
    return [state for i, state in enumerate(told) if [state] != told[max(i - 1, 0) : i]]


async def test_a_load_that_takes_longer_fails_at_its_time_and_is_ready_later(world: World) -> None:
    slow = replace(world.model("slow", load_seconds=3), ready_timeout=SECOND)
    applied = await world.deploy(slow)
    failed = await world.until(State.FAILED)
    failure = failed.status.failure
    assert failure
    assert failure.reason is FailureReason.PROGRESS_DEADLINE
    assert failure.rollout_id == failed.rollout.id
    assert "ready_timeout of 1 s" in failure.message
    assert "a longer spec.ready_timeout" in failure.remedy
    assert "pods" not in failure.remedy
    await world.told.ready(IRIS, applied.service.generation)
    assert states(world)[-2:] == [State.FAILED, State.READY]

    # What was ready once is not late when its server is started again.
    [server] = servers_of(world)
    server.kill()
    await world.when("it is down", lambda s: not s.status.serving)
    since = len(world.told.events)
    await world.told.ready(IRIS, applied.service.generation)
    later = [s for s in world.told.history(IRIS, since) if isinstance(s, InferenceService)]
    reasons = {s.status.failure.reason for s in later if s.status.failure}
    assert FailureReason.PROGRESS_DEADLINE not in reasons


async def test_beside_a_serving_rollout_a_late_one_is_degraded(world: World) -> None:
    await world.ready(world.model("good"))
    slow = replace(world.model("slow", load_seconds=3), ready_timeout=SECOND)
    applied = await world.deploy(slow)
    degraded = await world.until(State.DEGRADED)
    assert degraded.status.serving
    await world.told.ready(IRIS, applied.service.generation)


async def test_a_longer_one_gives_a_load_more_time_than_others_have(tmp_path: Path) -> None:
    timeouts = replace(BRISK, progress_deadline=SECOND)
    async with world_of(tmp_path, timeouts) as world:
        slow = replace(world.model("slow", load_seconds=2), ready_timeout=60 * SECOND)
        await world.ready(slow)
        assert State.FAILED not in states(world)


async def test_a_restart_of_the_server_keeps_its_time(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        slow = replace(world.model("slow", load_seconds=60), ready_timeout=SECOND)
        applied = await world.deploy(slow)
        await world.until(State.FAILED)
    async with world_of(tmp_path) as world:
        service = world.told.latest(IRIS)
        assert service
        assert service.rollout == applied.rollout
        assert states(world) == [State.FAILED]


async def test_a_rollout_that_is_tried_again_has_its_time_again(tmp_path: Path) -> None:
    hour = 3600 * SECOND
    timeouts = replace(BRISK, first_retry=hour, longest_retry=hour)
    async with world_of(tmp_path, timeouts) as world:
        bad = replace(world.model("bad", exit=1, says="RuntimeError"), ready_timeout=SECOND)
        await world.deploy(bad)
        failed = await world.when("it has failed by itself", _cannot_load)
        over = failed.create_time + 2 * SECOND
        await eventually("its time is over", lambda: datetime.now(UTC) > over)
        again = await world.deploy(bad)
        assert again.action is Action.UNCHANGED
        assert again.service.status.state is not State.FAILED
        assert again.rollout == failed.rollout
        await world.until(State.FAILED)


def _cannot_load(service: InferenceService) -> bool:
    failure = service.status.failure
    return failure is not None and failure.reason is FailureReason.MODEL_LOAD
