"""The feed of any cluster."""

from __future__ import annotations

from datetime import timedelta

from server.domain.rollout.status import State
from server.domain.service.commands import Delete
from server.domain.service.inference_service import InferenceService, ServiceKey
from tests.contracts.world import Ability, Changed, Synced, World, deploy, needs, plain


class FeedConformance:
    """What is there, Synced, then the latest of every change."""

    async def test_what_is_there_comes_before_synced(self, world: World) -> None:
        keys = set()
        for name in ("a", "b", "c"):
            keys.add((await world.cluster.apply(deploy(world, plain(world), name))).service.key)
        async with world.replica() as (_, told):
            end = next(i for i, event in enumerate(told.events) if isinstance(event, Synced))
            # A service of another test may be gone meanwhile.
            first = {e.service.key for e in told.events[:end] if isinstance(e, Changed)}
            assert keys <= first
            assert sum(isinstance(event, Synced) for event in told.events) == 1

    async def test_writes_of_one_replica_are_told_by_another(self, world: World) -> None:
        async with world.replica() as (_, told):
            made = await world.cluster.apply(deploy(world, plain(world), labels={"team": "a"}))
            key = made.service.key
            await told.until("the new service", lambda: told.latest(key))
            seen = told.latest(key)
            assert seen is not None
            assert (seen.uid, seen.spec, seen.etag, seen.labels) == (
                made.service.uid,
                made.service.spec,
                made.service.etag,
                {"team": "a"},
            )

    async def test_a_good_rollout_ends_ready_and_is_served(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        told = world.told
        made = await world.cluster.apply(deploy(world, plain(world)))
        ready = await told.ready(made.service.key, made.service.generation)
        assert ready.rollout == made.rollout
        assert ready.status.serving
        assert ready.status.failure is None
        assert ready.status.latest_ready_generation == made.service.generation
        assert [c.ready_replicas for c in ready.status.components] == [1]

    async def test_ready_is_never_told_of_a_rollout_whose_pods_are_not(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        told = world.told
        first = await world.cluster.apply(deploy(world, plain(world, "1")))
        key = first.service.key
        await told.ready(key, first.service.generation)
        stuck = await world.cluster.apply(deploy(world, world.never_ready()))
        generation = stuck.service.generation
        await told.until(
            "the stuck rollout serving by the old pods",
            lambda: (s := told.latest(key)) and s.generation == generation and s.status.serving,
        )
        latest = told.latest(key)
        assert latest is not None
        assert latest.status.latest_ready_generation == first.service.generation
        await world.cluster.delete(Delete(key))
        await told.until("the deletion", lambda: _state(told.latest(key)) is State.DELETING)
        states = {
            s.status.state
            for s in told.history(key)
            if isinstance(s, InferenceService) and s.generation == generation
        }
        assert State.READY not in states

    async def test_a_stopped_service_is_told_stopped(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE, Ability.STOPPING)
        stop = {"serving.kserve.io/stop": "true"}
        told = world.told
        made = await world.cluster.apply(deploy(world, plain(world), annotations=stop))
        await told.until("stopped", lambda: _state(told.latest(made.service.key)) is State.STOPPED)

    async def test_while_it_follows_its_age_is_small(self, world: World) -> None:
        age = world.cluster.age()
        assert age is not None
        assert timedelta(0) <= age < timedelta(seconds=10)
        assert world.cluster.reachable()

    async def test_reading_the_cluster_itself_confirms_what_is_there(self, world: World) -> None:
        assert await world.cluster.read(ServiceKey(world.namespace, "iris")) is None
        made = await world.cluster.apply(deploy(world, plain(world)))
        read = await world.cluster.read(made.service.key)
        assert read is not None
        assert (read.uid, read.spec, read.etag) == (
            made.service.uid,
            made.service.spec,
            made.service.etag,
        )


def _state(service: InferenceService | None) -> State | None:
    return service.status.state if service else None
