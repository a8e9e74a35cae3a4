"""What the followers of a cluster do while it, the database or a record is not as it should be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from server.domain.errors import ClusterUnavailable, KServeMissing, ServerLacksRights, ServiceError
from server.domain.registry.deployment import DeploymentState
from server.domain.registry.deployment_progress import with_answer
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import RegistryWriting
from tests.control.recorder_world import BRISK, FAILING, World, world
from tests.memory_cluster.cluster import MemoryCluster

__all__ = ["world"]


@dataclass
class RefusingCluster(MemoryCluster):
    """A cluster whose feed works, and whose reads raise this error."""

    refusal: ServiceError | None = None

    async def read(self, key: ServiceKey) -> InferenceService | None:
        if self.refusal:
            raise self.refusal
        return await super().read(key)


async def test_a_replica_that_is_cut_off_from_the_cluster_lets_another_lead(world: World) -> None:
    here = MemoryCluster(world.cluster.store)
    async with world.replica(cluster=here):
        await world.until(await world.deploy("before"), DeploymentState.DEPLOYED)
        here.away()
        async with world.replica():
            await world.until(await world.deploy("meanwhile"), DeploymentState.DEPLOYED)
        here.back()
        await world.until(await world.deploy("after"), DeploymentState.DEPLOYED)


async def test_a_record_that_cannot_be_written_keeps_no_other_from_its_service(
    world: World,
) -> None:
    records = [await world.deploy(name) for name in ("first", "broken", "last")]
    refusing = "BEFORE UPDATE ON model_deployments WHEN old.service = 'broken'"
    await world.alter(f"CREATE TRIGGER t {refusing} BEGIN SELECT RAISE(ABORT, 'no'); END")
    async with world.replica():
        for record in (records[0], records[2]):
            await world.until(record, DeploymentState.DEPLOYED)
        await world.stays(records[1])
        await world.alter("DROP TRIGGER t")
        await world.until(records[1], DeploymentState.DEPLOYED)


async def test_a_record_that_cannot_be_read_does_not_end_the_server(world: World) -> None:
    record = await world.deploy("fraud")
    await world.alter("UPDATE model_deployments SET state = 'OF_A_NEWER_RELEASE'")
    async with world.replica():
        await asyncio.sleep(3 * BRISK.after_bug)
        await world.alter("UPDATE model_deployments SET state = 'PENDING'")
        await world.until(record, DeploymentState.DEPLOYED)


async def test_a_failure_that_only_a_newer_release_knows_is_replaced_by_the_current_state(
    world: World,
) -> None:
    world.cluster.ready_after = None
    record = await world.deploy("fraud")
    await world.alter(
        """UPDATE model_deployments SET failure = '{"reason": "NEWER", "message": "new"}'"""
    )
    assert (await world.stored(record)).failure is None
    async with world.replica():
        world.cluster.set_status(record.service, FAILING)
        assert (await world.until(record, DeploymentState.FAILED)).failure == FAILING.failure


async def test_an_absence_counts_once_the_cluster_confirms_it(world: World) -> None:
    record = await world.record("fraud", rollout=Rollout("uid-of-another-view", 1))
    here = MemoryCluster(world.cluster.store)
    async with world.replica(cluster=here) as cache:
        await world.until(await world.deploy("other"), DeploymentState.DEPLOYED)
        here.away()
        assert cache.synced
        await world.stays(record)
        here.back()
        await world.until(record, DeploymentState.UNDEPLOYED, ended=True)


@pytest.mark.parametrize("refusal", [ServerLacksRights("no rights"), KServeMissing("no KServe")])
async def test_what_was_seen_to_go_is_gone_also_where_the_cluster_may_not_be_asked(
    world: World, refusal: ServiceError
) -> None:
    here = RefusingCluster(world.cluster.store, refusal=refusal)
    async with world.replica(cluster=here):
        record = await world.deploy("fraud")
        await world.until(record, DeploymentState.DEPLOYED)
        await world.delete(record)
        await world.until(record, DeploymentState.UNDEPLOYED, ended=True)


@pytest.mark.parametrize("refusal", [ServerLacksRights("no rights"), ClusterUnavailable("busy")])
async def test_what_is_unseen_and_may_not_be_asked_for_ends_once_it_may(
    world: World, refusal: ServiceError
) -> None:
    here = RefusingCluster(world.cluster.store, refusal=refusal)
    record = await world.record("fraud", rollout=Rollout("uid-of-another-view", 1))
    async with world.replica(cluster=here):
        await world.until(await world.deploy("other"), DeploymentState.DEPLOYED)
        await world.stays(record)
        here.refusal = None
        await world.until(record, DeploymentState.UNDEPLOYED, ended=True)


async def test_a_view_that_is_behind_ends_nothing(world: World) -> None:
    here = MemoryCluster(world.cluster.store)
    async with world.replica(cluster=here):
        first = await world.deploy("fraud")
        await world.until(first, DeploymentState.DEPLOYED)
        here.hold_feed()
        second = await world.record("fraud", "fraud:2")
        rollout = (await world.apply(second, "fraud:2")).rollout

        async def outcome(tx: RegistryWriting) -> None:
            await tx.replace(with_answer(await tx.deployment(second.id), rollout, await tx.now()))

        await world.registry.write(outcome)
        await world.stays(second)
        await world.stays(first)
        here.release_feed()
        await world.until(first, DeploymentState.SUPERSEDED, ended=True)
        await world.until(second, DeploymentState.DEPLOYED)


async def test_records_catch_up_once_their_database_is_back(world: World) -> None:
    async with world.replica():
        before = await world.deploy("before")
        await world.until(before, DeploymentState.DEPLOYED)
        unheard = await world.record("unheard")
        with world.locked():
            await world.delete(before)
            await world.apply(unheard)
            # Longer than anybody waits for the database.
            await asyncio.sleep(3)
        await world.until(before, DeploymentState.UNDEPLOYED, ended=True)
        await world.until(unheard, DeploymentState.DEPLOYED)
