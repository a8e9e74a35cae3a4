"""How far one replica is, and whether another has come as far, on any cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.domain.service.commands import Delete
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.state_digest import state_digest
from server.ports import Cluster
from tests.contracts.world import World, deploy, plain
from tests.patience import PATIENCE_SECONDS

LONGEST_POSITION = 400


class PositionConformance:
    """A replica that has reached a position has what the other had there, or something newer."""

    async def test_what_one_replica_has_is_reached_by_another(self, world: World) -> None:
        async with world.replica() as (other, told):
            for number in range(5):
                service = (
                    await world.cluster.apply(deploy(world, plain(world, str(number))))
                ).service
                position = world.cluster.position(service.key)
                assert len(position) <= LONGEST_POSITION
                await _until(lambda p=position, k=service.key: other.reached(k, p))
                shown = told.latest(service.key)
                assert shown is not None
                assert shown.uid == service.uid
                assert shown.generation >= service.generation

    async def test_a_replica_whose_events_are_late_has_not_reached_what_it_has_not(
        self, world: World
    ) -> None:
        async with world.replica() as (other, _):
            async with world.late_events():
                service = (await other.apply(deploy(world, plain(world)))).service
                position = other.position(service.key)
                shown = world.told.latest(service.key)
                assert world.cluster.reached(service.key, position) == (shown is not None)
            await _until(lambda: world.cluster.reached(service.key, position))
            assert world.told.latest(service.key) is not None

    async def test_a_deletion_moves_the_position(self, world: World) -> None:
        told = world.told
        service = (await world.cluster.apply(deploy(world, plain(world)))).service
        key = service.key
        async with world.replica() as (other, told_other):
            await told_other.until("the service", lambda: told_other.latest(key))
            await world.keep(key)
            await world.cluster.delete(Delete(key))
            await world.finish_delete(key)
            await told.until("the end", lambda: told.latest(key) is None)
            position = world.cluster.position(key)
            await _until(lambda: other.reached(key, position))
            assert told_other.latest(key) is None

    async def test_replicas_at_rest_have_the_same_digest_of_a_service(self, world: World) -> None:
        service = (await world.cluster.apply(deploy(world, plain(world)))).service
        async with world.replica() as (other, told):
            await _until(lambda: _agree(world, other, service.key, told.latest(service.key)))

    async def test_a_text_that_is_no_position_is_reached(self, world: World) -> None:
        key = ServiceKey(world.namespace, "iris")
        await _until(lambda: world.cluster.reached(key, ""))
        assert world.cluster.reached(key, "no position")


def _agree(world: World, other: Cluster, key: ServiceKey, theirs: InferenceService | None) -> bool:
    ours = world.told.latest(key)
    return (
        ours is not None
        and theirs is not None
        and world.cluster.reached(key, other.position(key))
        and other.reached(key, world.cluster.position(key))
        and state_digest(ours) == state_digest(theirs)
    )


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.02)
