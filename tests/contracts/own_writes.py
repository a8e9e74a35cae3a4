"""Writes, and what the sink of their cluster gets, on any cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from server.domain.service.commands import Delete
from server.domain.service.inference_service import InferenceService, ServiceKey
from tests.contracts.world import Follower, Gone, World, deploy, plain
from tests.patience import PATIENCE_SECONDS


class OwnWritesConformance:
    """When a write returns, the sink has its result, and never gets anything older."""

    async def test_the_result_of_a_write_is_shown_when_it_returns(self, world: World) -> None:
        told = world.told
        for number in range(10):
            applied = await world.cluster.apply(deploy(world, plain(world, str(number))))
            _check_shown(told, applied.service)
        again = await world.cluster.apply(deploy(world, plain(world, str(number))))
        _check_shown(told, again.service)
        going = await world.cluster.delete(Delete(again.service.key))
        _check_shown(told, going)
        _check_order(told.history(going.key))

    async def test_late_events_take_no_write_back(self, world: World) -> None:
        told = world.told
        async with world.late_events():
            for number in range(5):
                applied = await world.cluster.apply(deploy(world, plain(world, str(number))))
                _check_shown(told, applied.service)
        await _all_events(world)
        _check_shown(told, applied.service)
        _check_order(told.history(applied.service.key))

    async def test_answers_that_come_after_their_events_take_nothing_back(
        self, world: World
    ) -> None:
        told = world.told
        async with world.late_answers():
            for number in range(5):
                applied = await world.cluster.apply(deploy(world, plain(world, str(number))))
                _check_shown(told, applied.service)
            going = await world.cluster.delete(Delete(applied.service.key))
            _check_shown(told, going)
        _check_order(told.history(going.key))

    async def test_writes_of_two_replicas_reach_both_in_order(self, world: World) -> None:
        key = ServiceKey(world.namespace, "iris")
        async with world.replica() as (other, told_other):
            sides = [(world.cluster, world.told), (other, told_other)]
            for number in range(10):
                cluster, told = sides[number % 2]
                applied = await cluster.apply(deploy(world, plain(world, str(number))))
                _check_shown(told, applied.service)
            last = applied.service
            for _, told in sides:
                await told.until("the last write", lambda t=told: _has(t, last))
                _check_order(told.history(key))

    async def test_a_service_made_anew_is_never_mixed_up_with_the_one_before_it(
        self, world: World
    ) -> None:
        told = world.told
        answers = [await world.cluster.apply(deploy(world, plain(world)))]
        key = answers[0].service.key
        async with world.late_events():
            for number in range(2):
                await world.keep(key)
                _check_shown(told, await world.cluster.delete(Delete(key)))
                await world.finish_delete(key)
                await _gone(world, key)
                answers.append(await world.cluster.apply(deploy(world, plain(world, str(number)))))
                _check_shown(told, answers[-1].service)
        await _all_events(world)
        _check_shown(told, answers[-1].service)
        history = told.history(key)
        _check_order(history)
        uids = [answer.service.uid for answer in answers]
        assert list(dict.fromkeys(change.uid for change in history)) == uids


def _check_shown(told: Follower, answered: InferenceService) -> None:
    shown = told.latest(answered.key)
    if shown is None:
        assert answered.delete_time, "what was written is not there"
    else:
        assert _has(told, answered), f"{shown} is older than {answered}"


def _has(told: Follower, answered: InferenceService) -> bool:
    shown = told.latest(answered.key)
    return (
        shown is not None
        and shown.uid == answered.uid
        and shown.generation >= answered.generation
        and (shown.delete_time is not None or answered.delete_time is None)
        and (shown.generation > answered.generation or shown.spec == answered.spec)
    )


def _check_order(history: Iterable[InferenceService | Gone]) -> None:
    """Of one uid neither generation nor deletion is taken back, and none comes after its end."""
    before: InferenceService | None = None
    ended = set()
    for change in history:
        assert change.uid not in ended, "a deleted service came back"
        if isinstance(change, Gone):
            ended.add(change.uid)
            before = None
            continue
        if before:
            assert change.generation >= before.generation
            assert change.delete_time or not before.delete_time
        before = change


async def _all_events(world: World) -> None:
    """Wait for all events until now: another replica's write comes after them."""
    async with world.replica() as (other, _):
        last = (await other.apply(deploy(world, plain(world), "last"))).service
    await world.told.until("another replica's write", lambda: _has(world.told, last))


async def _gone(world: World, key: ServiceKey) -> None:
    """Wait until the cluster itself has the service no longer, whatever the sink has."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await world.cluster.read(key):
            await asyncio.sleep(0.02)
