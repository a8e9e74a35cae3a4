"""The followers of a cluster in memory, on a real database."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from server.adapters.memory.cluster import MemoryCluster
from server.adapters.sql.opening import opened_registry
from server.control.recording import Pace, Recording
from server.control.viewing import ALL, View, follow
from server.domain.commands import Applied, Delete, Deploy, Provenance
from server.domain.errors import (
    ClusterUnavailable,
    KServeMissing,
    ServerLacksRights,
    ServiceError,
)
from server.domain.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.domain.model_deployment import (
    DeploymentFilter,
    DeploymentState,
    DesiredState,
    ModelDeployment,
    content_of,
)
from server.domain.recording import UNSEEN_FOR, answered
from server.domain.rollout import Rollout
from server.domain.status import Failure, FailureReason, InferenceServiceStatus, State
from server.ports import Registry, RegistryWriting

PATIENCE_SECONDS = 10.0
BRISK = Pace(term=0.6, sweep=0.1, pause=0.05, after_bug=0.7)
FAILING = InferenceServiceStatus(
    State.FAILED, failure=Failure(FailureReason.IMAGE_PULL, "the image is not there")
)


def spec(image: str) -> InferenceServiceSpec:
    return InferenceServiceSpec(predictor=ContainerPredictor(image))


class AlwaysLeads:
    """A registry whose lease two can have at once, as one who was stopped past its own thinks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def lead(self, holder: str, term: timedelta) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)


@dataclass
class RefusingCluster(MemoryCluster):
    """A cluster that tells its feed, and refuses to be asked with this error."""

    refusal: ServiceError | None = None

    async def read(self, key: ServiceKey) -> InferenceService | None:
        if self.refusal:
            raise self.refusal
        return await super().read(key)


@dataclass
class World:
    """A cluster, its registry, and whoever deploys from it."""

    registry: Registry
    cluster: MemoryCluster
    database: Path

    @asynccontextmanager
    async def replica(
        self, pace: Pace = BRISK, registry: Any = None, cluster: MemoryCluster | None = None
    ) -> AsyncIterator[View]:
        """A replica with a view of its own, until its orderly end."""
        cluster = cluster or MemoryCluster(self.cluster.store)
        view = View()
        recording = Recording(registry or self.registry, cluster, view, pace)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(follow(view, cluster)), tasks.create_task(recording.run())]
            yield view
            for task in running:
                task.cancel()

    async def record(self, name: str, image: str = "fraud:1", **fields: Any) -> ModelDeployment:
        """What a Deploy from the registry stores before it touches the cluster."""

        async def work(tx: RegistryWriting) -> ModelDeployment:
            now = await tx.now()
            ids = {f"{each}_id": str(uuid4()) for each in ("model", "version", "environment")}
            names = {"project": "risk", "model": "fraud", "version": "1", "environment": "staging"}
            made = ModelDeployment(
                **{"id": str(uuid4()), "content": content_of(spec(image))} | ids | names,
                **{"create_time": now, "update_time": now} | fields,
                service=ServiceKey("staging", name),
            )
            await tx.add(made)
            return made

        return await self.registry.write(work)

    async def apply(self, record: ModelDeployment, image: str = "fraud:1") -> Applied:
        ids = (record.model_id, record.version_id, record.environment_id, "service")
        provenance = Provenance(*ids, deployment_id=record.id)
        return await self.cluster.apply(Deploy(record.service, spec(image), provenance=provenance))

    async def deploy(self, name: str, image: str = "fraud:1") -> ModelDeployment:
        record = await self.record(name, image)
        await self.apply(record, image)
        return record

    async def delete(self, record: ModelDeployment) -> None:
        await self.cluster.delete(Delete(record.service))
        self.cluster.finish_delete(record.service)

    async def told(self, record: ModelDeployment) -> ModelDeployment:
        found = await self.registry.read(lambda tx: tx.deployment(record.id))
        assert found
        return found

    async def until(
        self, record: ModelDeployment, state: DeploymentState, *, ended: bool = False
    ) -> ModelDeployment:
        return await self.eventually(
            record, lambda found: found.state is state and bool(found.end_time) is ended
        )

    async def eventually(
        self, record: ModelDeployment, true: Callable[[ModelDeployment], bool]
    ) -> ModelDeployment:
        ends = time.monotonic() + PATIENCE_SECONDS
        while not true(found := await self.told(record)):
            assert time.monotonic() < ends, found
            await asyncio.sleep(0.02)
        return found

    async def stays(self, record: ModelDeployment) -> None:
        """Several sweeps change nothing."""
        before = await self.told(record)
        await asyncio.sleep(5 * BRISK.sweep)
        assert await self.told(record) == before

    async def alter(self, statement: str) -> None:
        """Change the database beside the registry, which may have a transaction to finish."""

        def altered() -> None:
            with closing(sqlite3.connect(self.database)) as database, database:
                database.execute(statement)

        await asyncio.to_thread(altered)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another program has the database to itself."""
        other = sqlite3.connect(self.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    database = tmp_path / "registry.db"
    async with opened_registry(f"sqlite:///{database}") as registry:
        yield World(registry, MemoryCluster(), database)


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


async def test_trouble_is_told_while_it_lasts(world: World) -> None:
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


async def test_who_stops_lets_another_lead_at_once(world: World) -> None:
    for_ages = replace(BRISK, term=100.0)
    async with world.replica(for_ages):
        await world.until(await world.deploy("first"), DeploymentState.DEPLOYED)
    async with world.replica(for_ages):
        await world.until(await world.deploy("second"), DeploymentState.DEPLOYED)


async def test_following_begins_once_the_cluster_is_listed(world: World) -> None:
    here = MemoryCluster(world.cluster.store)
    here.hold_feed()
    async with world.replica(replace(BRISK, pause=100.0), cluster=here) as view:
        record = await world.deploy("fraud")
        await world.stays(record)
        assert not view.synced
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
    assert await world.registry.lead("one who was killed", timedelta(seconds=1))
    began = time.monotonic()
    async with world.replica():
        await world.until(record, DeploymentState.DEPLOYED)
    assert time.monotonic() - began > 0.9


async def test_a_deploy_that_never_reached_the_cluster_is_given_up_and_no_sooner(
    world: World,
) -> None:
    now = await world.registry.read(lambda tx: tx.now())
    young, old = [
        await world.record(name, create_time=now - age, update_time=now - age)
        for name, age in (("young", timedelta(0)), ("old", UNSEEN_FOR))
    ]
    async with world.replica():
        ended = await world.until(old, DeploymentState.FAILED, ended=True)
        assert ended.error_reason == "WRITE_OUTCOME_UNKNOWN"
        await world.stays(young)
        # The same name: what is there does not carry it.
        await world.apply(young)
        await world.until(young, DeploymentState.DEPLOYED)


async def test_who_is_cut_off_from_the_cluster_leaves_following_to_another(world: World) -> None:
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


async def test_a_failure_that_only_a_newer_release_knows_gives_way_to_what_the_cluster_says(
    world: World,
) -> None:
    world.cluster.ready_after = None
    record = await world.deploy("fraud")
    await world.alter(
        """UPDATE model_deployments SET failure = '{"reason": "NEWER", "message": "new"}'"""
    )
    assert (await world.told(record)).failure is None
    async with world.replica():
        world.cluster.set_status(record.service, FAILING)
        assert (await world.until(record, DeploymentState.FAILED)).failure == FAILING.failure


async def test_who_does_not_follow_keeps_no_list_of_what_changed(world: World) -> None:
    assert await world.registry.lead("another", timedelta(minutes=1))
    async with world.replica() as view:
        await world.deploy("fraud")
        [listening] = view._subscriptions[ServiceKey(ALL, "")]
        ends = time.monotonic() + PATIENCE_SECONDS
        while view.get(ServiceKey("staging", "fraud")) is None or listening._dirty:
            assert time.monotonic() < ends
            await asyncio.sleep(0.02)


async def test_an_absence_counts_once_the_cluster_confirms_it(world: World) -> None:
    record = await world.record("fraud", rollout=Rollout("uid-of-another-view", 1))
    here = MemoryCluster(world.cluster.store)
    async with world.replica(cluster=here) as view:
        await world.until(await world.deploy("other"), DeploymentState.DEPLOYED)
        here.away()
        assert view.synced
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
            await tx.replace(answered(await tx.deployment(second.id), rollout, await tx.now()))

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


async def test_two_who_think_that_they_lead_come_to_the_same(world: World) -> None:
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
