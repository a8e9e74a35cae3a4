"""What tests make happen in the cluster in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from server.domain.errors import ClusterUnavailable, NamespaceNotFound, QuotaExceeded
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import FailureReason, InferenceServiceStatus, State
from server.domain.service.commands import STOP_ANNOTATION, Action, Delete, Deploy
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    Scaling,
    ServiceKey,
)
from tests.contracts.world import Changed, Follower, Gone, Synced, following
from tests.memory_cluster.cluster import MemoryCluster

KEY = ServiceKey("model-serving", "iris")
SPEC = InferenceServiceSpec(ContainerPredictor("registry.example/iris:1"))
QUIET_SECONDS = 0.05


def states(told: Follower) -> list[State]:
    return [event.service.status.state for event in told.events if isinstance(event, Changed)]


async def test_a_rollout_waits_for_its_time_and_is_then_ready() -> None:
    cluster = MemoryCluster(ready_after=timedelta(milliseconds=20))
    async with following(cluster) as told:
        applied = await cluster.apply(Deploy(KEY, SPEC))
        ready = await told.ready(KEY, applied.service.generation)
    assert states(told) == [State.PENDING, State.READY]
    assert ready.status.serving
    assert ready.status.latest_ready_generation == 1


async def test_a_rollout_without_a_time_waits_for_ever() -> None:
    cluster = MemoryCluster(ready_after=None)
    async with following(cluster) as told:
        await cluster.apply(Deploy(KEY, SPEC))
        await told.until("pending", lambda: states(told))
        await asyncio.sleep(QUIET_SECONDS)
    assert states(told) == [State.PENDING]


async def test_a_status_that_is_set_stays_until_the_next_write() -> None:
    cluster = MemoryCluster(ready_after=timedelta(milliseconds=10))
    async with following(cluster) as told:
        applied = await cluster.apply(Deploy(KEY, SPEC))
        failure = replace(failure_of(FailureReason.IMAGE_PULL, "no such image"), rollout_id="r")
        cluster.set_status(KEY, InferenceServiceStatus(State.FAILED, failure=failure))
        await asyncio.sleep(QUIET_SECONDS)
        latest = told.latest(KEY)
        assert latest is not None
        assert (latest.status.state, latest.status.failure) == (State.FAILED, failure)
        assert latest.etag == applied.service.etag
        fixed = await cluster.apply(Deploy(KEY, InferenceServiceSpec(ContainerPredictor("x:2"))))
        assert fixed.service.status.state is State.PENDING
        assert fixed.service.status.failure is None
        await told.ready(KEY, fixed.service.generation)


async def test_an_update_of_a_serving_service_progresses_while_the_old_one_serves() -> None:
    cluster = MemoryCluster()
    async with following(cluster) as told:
        first = await cluster.apply(Deploy(KEY, SPEC))
        await told.ready(KEY, first.service.generation)
        second = await cluster.apply(Deploy(KEY, SPEC, labels={"a": "b"}))
    assert second.service.status.state is State.PROGRESSING
    assert second.service.status.serving
    assert second.service.status.latest_ready_generation == 1


async def test_a_stopped_service_settles_stopped() -> None:
    cluster = MemoryCluster()
    async with following(cluster) as told:
        await cluster.apply(Deploy(KEY, SPEC, annotations={STOP_ANNOTATION: "true"}))
        await told.until("stopped", lambda: State.STOPPED in states(told))
    assert State.READY not in states(told)


async def test_while_it_is_away_nothing_is_written_read_or_told() -> None:
    cluster = MemoryCluster()
    other = MemoryCluster(cluster.store)
    async with following(cluster) as told:
        cluster.away()
        for asked in (
            cluster.apply(Deploy(KEY, SPEC)),
            cluster.delete(Delete(KEY)),
            cluster.read(KEY),
        ):
            with pytest.raises(ClusterUnavailable):
                await asked
        assert not cluster.reachable()
        await other.apply(Deploy(KEY, SPEC))
        before = cluster.age()
        await asyncio.sleep(QUIET_SECONDS)
        assert told.history(KEY) == []
        after = cluster.age()
        assert before is not None
        assert after is not None
        assert after - before >= timedelta(seconds=QUIET_SECONDS)
        cluster.back()
        await told.ready(KEY, 1)
        assert cluster.reachable()
        assert cluster.age() == timedelta(0)


async def test_a_service_made_anew_while_away_is_told_gone_and_then_new() -> None:
    cluster = MemoryCluster(ready_after=None)
    other = MemoryCluster(cluster.store, ready_after=None)
    async with following(cluster) as told:
        old = await cluster.apply(Deploy(KEY, SPEC))
        await told.until("the old one", lambda: told.latest(KEY))
        known = len(told.events)
        cluster.away()
        await other.delete(Delete(KEY))
        other.finish_delete(KEY)
        new = await other.apply(Deploy(KEY, SPEC))
        cluster.back()
        await told.until("the new one", lambda: told.latest(KEY) == new.service)
    assert told.events[known:] == [Gone(KEY, old.service.uid), Changed(new.service)]


async def test_a_feed_that_is_held_back_lags_and_shows_the_own_writes_of_its_replica() -> None:
    cluster = MemoryCluster(ready_after=None)
    other = MemoryCluster(cluster.store, ready_after=None)
    elsewhere = KEY._replace(name="elsewhere")
    async with following(cluster) as told:
        cluster.hold_feed()
        applied = await cluster.apply(Deploy(KEY, SPEC))
        theirs = await other.apply(Deploy(elsewhere, SPEC))
        assert await cluster.read(elsewhere) is not None
        assert cluster.reachable()
        await asyncio.sleep(QUIET_SECONDS)
        assert told.services == {KEY: applied.service}
        cluster.release_feed()
        await told.until("the other's write", lambda: told.latest(elsewhere) == theirs.service)


async def test_a_feed_held_back_before_it_starts_is_not_synced() -> None:
    cluster = MemoryCluster()
    cluster.hold_feed()
    told = Follower()
    feed = asyncio.create_task(cluster.follow(told))
    await asyncio.sleep(QUIET_SECONDS)
    assert told.events == []
    assert cluster.age() is None
    cluster.release_feed()
    await told.synced()
    assert told.events == [Synced()]
    feed.cancel()


async def test_the_next_write_alone_fails_as_asked() -> None:
    cluster = MemoryCluster()
    cluster.fail_next_write(QuotaExceeded("full"))
    with pytest.raises(QuotaExceeded):
        await cluster.apply(Deploy(KEY, SPEC))
    assert await cluster.read(KEY) is None
    assert (await cluster.apply(Deploy(KEY, SPEC))).action is Action.CREATED


async def test_a_missing_namespace_takes_no_write() -> None:
    cluster = MemoryCluster()
    cluster.store.missing_namespaces.add("absent")
    with pytest.raises(NamespaceNotFound):
        await cluster.apply(Deploy(ServiceKey("absent", "iris"), SPEC))


async def test_only_the_last_eight_requests_are_remembered() -> None:
    cluster = MemoryCluster()
    asked = [
        Deploy(KEY, InferenceServiceSpec(ContainerPredictor(f"x:{n}")), request_id=f"job-{n}")
        for n in range(9)
    ]
    answers = [await cluster.apply(deploy) for deploy in asked]
    oldest_known = await cluster.apply(asked[1])
    assert (oldest_known.action, oldest_known.rollout) == (Action.UPDATED, answers[1].rollout)
    assert (await cluster.apply(asked[0])).service.generation == 10


async def test_a_change_of_scaling_with_a_restart_rolls_and_is_remembered() -> None:
    cluster = MemoryCluster()
    await cluster.apply(Deploy(KEY, SPEC))
    scaled = InferenceServiceSpec(SPEC.predictor, scaling=Scaling(2))
    asked = Deploy(KEY, scaled, restart=True, request_id="job-1")
    first = await cluster.apply(asked)
    again = await cluster.apply(asked)
    assert (first.action, again.action) == (Action.UPDATED, Action.UPDATED)
    assert again.rollout == first.rollout


async def test_an_unmanaged_service_without_anything_that_fits_has_no_spec() -> None:
    cluster = MemoryCluster()
    made = cluster.put_unmanaged(KEY, None, {"team": "b"})
    assert made.unmanaged
    assert made.spec is None
    assert made.status.state is State.READY
    assert made.selectable_labels == {"team": "b"}
    assert await cluster.read(KEY) == made
