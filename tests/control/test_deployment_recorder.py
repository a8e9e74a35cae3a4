"""The followers of a cluster in memory, on a real database."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

from server.domain.registry.deployment import (
    DeploymentFilter,
    DeploymentState,
    DesiredState,
    ModelDeployment,
)
from server.domain.registry.deployment_progress import GIVE_UP_AFTER
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import Delete
from server.ports import Registry
from tests.control.recorder_world import BRISK, FAILING, World, spec, world
from tests.memory_cluster.cluster import MemoryCluster

__all__ = ["world"]


class AlwaysLeads:
    """A registry whose lease two can have at once, as one who was stopped past its own thinks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def lead(self, holder: str, term: timedelta) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)


async def test_a_record_follows_its_service_from_deploy_to_delete(world: World) -> None:
    async with world.replica():
        record = await world.deploy("fraud")
        deployed = await world.until(record, DeploymentState.DEPLOYED)
        assert deployed.rollout == world.cluster.store.service(record.service).rollout
        await world.cluster.delete(Delete(record.service))
        deleting = await world.eventually(
            record, lambda found: found.desired_state is DesiredState.UNDEPLOYED
        )
        assert deleting.end_time is None
        world.cluster.finish_delete(record.service)
        ended = await world.until(record, DeploymentState.UNDEPLOYED, ended=True)
        times = [ended.create_time, ended.ready_time, ended.end_time]
        assert times == sorted(times)
        await world.stays(record)


async def test_a_failure_is_recorded_while_it_lasts(world: World) -> None:
    world.cluster.ready_after = None
    async with world.replica():
        record = await world.deploy("fraud")
        world.cluster.set_status(record.service, FAILING)
        assert (await world.until(record, DeploymentState.FAILED)).failure == FAILING.failure
        world.cluster.set_status(record.service, InferenceServiceStatus(State.READY))
        assert (await world.until(record, DeploymentState.DEPLOYED)).failure is None
        world.cluster.set_status(record.service, FAILING)
        troubled = await world.eventually(record, lambda found: found.failure is not None)
        assert troubled.state is DeploymentState.DEPLOYED


async def test_the_next_deployment_supersedes_and_so_does_an_edit_by_somebody_else(
    world: World,
) -> None:
    async with world.replica():
        first = await world.deploy("fraud")
        await world.until(first, DeploymentState.DEPLOYED)
        second = await world.deploy("fraud", "fraud:2")
        await world.until(first, DeploymentState.SUPERSEDED, ended=True)
        await world.until(second, DeploymentState.DEPLOYED)
        store = world.cluster.store
        held = store.service(second.service)
        store.change(replace(held, spec=spec("edited"), generation=held.generation + 1))
        await world.until(second, DeploymentState.SUPERSEDED, ended=True)
        await world.stays(first)


async def test_a_replica_that_stops_lets_another_lead_at_once(world: World) -> None:
    for_ages = replace(BRISK, term=100.0)
    async with world.replica(for_ages):
        await world.until(await world.deploy("first"), DeploymentState.DEPLOYED)
    async with world.replica(for_ages):
        await world.until(await world.deploy("second"), DeploymentState.DEPLOYED)


async def test_following_begins_once_the_cluster_is_listed(world: World) -> None:
    here = MemoryCluster(world.cluster.store)
    here.hold_feed()
    async with world.replica(replace(BRISK, pause=100.0), cluster=here) as cache:
        record = await world.deploy("fraud")
        await world.stays(record)
        assert not cache.synced
        here.release_feed()
        await world.until(record, DeploymentState.DEPLOYED)


async def test_what_happened_while_nobody_followed_is_caught_up_with(world: World) -> None:
    kept, gone, replaced = [await world.deploy(name) for name in ("kept", "gone", "replaced")]
    async with world.replica():
        for record in (kept, gone, replaced):
            await world.until(record, DeploymentState.DEPLOYED)
    missed = await world.deploy("missed")
    await world.delete(gone)
    await world.delete(replaced)
    anew = await world.deploy("replaced")
    async with world.replica():
        for record in (gone, replaced):
            await world.until(record, DeploymentState.UNDEPLOYED, ended=True)
        for record in (missed, anew):
            await world.until(record, DeploymentState.DEPLOYED)
        await world.stays(kept)


async def test_a_dead_leader_is_followed_by_another_once_its_term_is_over(world: World) -> None:
    record = await world.deploy("fraud")
    began = time.monotonic()
    assert await world.registry.lead("one who was killed", timedelta(seconds=1))
    async with world.replica():
        await world.until(record, DeploymentState.DEPLOYED)
    assert time.monotonic() - began > 0.9


async def test_a_deploy_that_never_reached_the_cluster_is_given_up_and_no_sooner(
    world: World,
) -> None:
    now = await world.registry.read(lambda tx: tx.now())
    young, old = [
        await world.record(name, create_time=now - age, update_time=now - age)
        for name, age in (("young", timedelta(0)), ("old", GIVE_UP_AFTER))
    ]
    async with world.replica():
        ended = await world.until(old, DeploymentState.FAILED, ended=True)
        assert ended.error_reason == "WRITE_OUTCOME_UNKNOWN"
        await world.stays(young)
        # The same name: what is there does not carry it.
        await world.apply(young)
        await world.until(young, DeploymentState.DEPLOYED)


async def test_two_replicas_that_both_lead_come_to_the_same_records(world: World) -> None:
    """One of them sees everything late."""
    both = AlwaysLeads(world.registry)
    late = MemoryCluster(world.cluster.store)
    watched = asyncio.create_task(_histories(world))
    async with world.replica(registry=both), world.replica(registry=both, cluster=late):
        records: list[ModelDeployment] = []
        for number in range(30):
            late.hold_feed() if number % 3 else late.release_feed()
            records.append(await world.deploy(f"svc-{number % 5}", f"fraud:{number}"))
            if number % 7 == 6:
                await world.delete(records[-1])
        late.release_feed()
        for record in records:
            await world.eventually(record, lambda found: _agrees(world, found))
        await asyncio.gather(*map(world.stays, records))
    assert not watched.done(), watched.exception()
    watched.cancel()


def _agrees(world: World, found: ModelDeployment) -> bool:
    there = world.cluster.store.service(found.service)
    if there and there.deployment_id == found.id:
        return found.state is DeploymentState.DEPLOYED and found.rollout == there.rollout
    given_up = (DeploymentState.SUPERSEDED, DeploymentState.UNDEPLOYED)
    # Nobody may have seen it before the next replaced it: then it is given up later.
    return found.state in given_up or found.rollout is None


async def _histories(world: World) -> None:
    """Fails where a time moves back or an end is undone."""
    known: dict[str, ModelDeployment] = {}
    all_of_them = DeploymentFilter("risk")
    while True:
        page = await world.registry.read(lambda tx: tx.deployments(all_of_them, 1000, None))
        for now in page.items:
            if before := known.get(now.id):
                assert now == before if before.end_time else now.update_time >= before.update_time
                assert before.ready_time in (None, now.ready_time)
            known[now.id] = now
        await asyncio.sleep(0.01)
