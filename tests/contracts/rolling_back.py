"""Revisions and rollbacks on any cluster."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from server.adapters.no_registry import NoRegistry
from server.control.authorizer import Authorizer
from server.control.call import Call
from server.control.deploy import Deployer
from server.control.registry_deploy import RegistryDeployer
from server.control.rollouts import Rollback, Rollouts
from server.control.service_memory import ServiceMemory
from server.control.watch_cache import WatchCache
from server.domain.errors import NoReadyRevision, RevisionNotFound
from server.domain.revisions.kept_content import LARGEST_CONTENT
from server.domain.revisions.revision import MOST_REVISIONS, Revision, RevisionOutcome
from server.domain.rollout.rollout_id import End, RolloutStatus, outcome
from server.domain.service.commands import STOP_ANNOTATION, Action, Applied, Delete
from server.domain.service.inference_service import (
    RECREATE,
    InferenceServiceSpec,
    RolloutStrategy,
    Scaling,
    ServiceKey,
)
from server.ports import Cluster
from tests.contracts.world import Ability, World, annotated, deploy, needs, plain
from tests.patience import PATIENCE_SECONDS

READY, FAILED, SUPERSEDED = RevisionOutcome
Row = tuple[InferenceServiceSpec, RevisionOutcome | None]


async def rollback(
    world: World, key: ServiceKey, number: int = 0, *, force: bool = False
) -> Applied:
    """The rollback of a server on this cluster."""
    rollouts = rollouts_on(world.cluster, world.namespace)
    return await rollouts.rollback(Call(), Rollback(key, number, force=force))


def rollouts_on(cluster: Cluster, namespace: str) -> Rollouts:
    """The rollouts of a server on a cluster, without callers and registry."""
    cache = WatchCache()
    authorizer = Authorizer(namespace)
    memory = ServiceMemory(cache, 2**30)
    registry = RegistryDeployer(NoRegistry(), cluster, cache, authorizer, memory)
    return Rollouts(cluster, authorizer, Deployer(cluster, authorizer, memory, registry))


async def revisions_of(cluster: Cluster, key: ServiceKey) -> list[Revision]:
    """The revisions of a service, newest first; none of an absent one."""
    history = await cluster.history(key)
    return list(history.revisions) if history else []


async def good(world: World, tag: str) -> Applied:
    """Deploy what becomes READY, and wait for that."""
    applied = await world.cluster.apply(deploy(world, plain(world, tag)))
    await world.told.ready(applied.service.key, applied.service.generation)
    return applied


async def bad(world: World, tag: str) -> Applied:
    """Deploy what fails, and wait for that."""
    applied = await world.cluster.apply(deploy(world, world.failing(tag)))

    def failed() -> bool:
        service = world.told.latest(applied.service.key)
        if service is None:
            return False
        ended = outcome(applied.service.rollout, RolloutStatus(service.rollout, service.status))
        return ended is not None and ended.end is End.FAILED

    await world.told.until("it has failed", failed)
    return applied


async def history(world: World, key: ServiceKey, *expected: Row) -> list[Revision]:
    """The revisions, once these are their contents and outcomes, newest first."""
    shown: list[Row] = []
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                revisions = await revisions_of(world.cluster, key)
                shown = [(r.content.spec, r.outcome) for r in revisions if r.content]
                if shown == list(expected):
                    return revisions
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"the revisions stay {shown}")


class RollbackConformance:
    """Revisions, and the way back to them."""

    async def test_a_rollback_goes_to_the_last_that_was_ready_and_not_further_when_repeated(
        self, world: World
    ) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        first = await good(world, "1")
        key = first.service.key
        await bad(world, "2")
        third = await good(world, "3")
        fourth = await bad(world, "4")
        back = await rollback(world, key)
        assert (back.action, back.service.spec) == (Action.UPDATED, plain(world, "3"))
        assert back.service.generation > fourth.service.generation
        await world.told.ready(key, back.service.generation)
        rows: list[Row] = [
            (plain(world, "3"), READY),
            (world.failing("4"), FAILED),
            (plain(world, "3"), READY),
            (world.failing("2"), FAILED),
            (plain(world, "1"), READY),
        ]
        revisions = await history(world, key, *rows)
        assert [r.rollback_of for r in revisions] == [third.service.generation, 0, 0, 0, 0]
        assert revisions[0].rollout == back.rollout
        assert all(r.ready_time for r in revisions if r.outcome is READY)
        assert all(r.failure for r in revisions if r.outcome is FAILED)
        assert all(r.create_time for r in revisions)
        again = await rollback(world, key)
        assert (again.action, again.rollout) == (Action.UNCHANGED, back.rollout)
        named = await rollback(world, key, first.service.generation)
        assert named.service.spec == plain(world, "1")

    async def test_a_change_by_another_writer_is_a_revision_between(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE, Ability.OTHER_WRITERS, Ability.CONTAINERS)
        first = await good(world, "1")
        key = first.service.key
        await world.edit(key, "2")
        await world.told.ready(key, first.service.generation + 1)
        rows: list[Row] = [(plain(world, "2"), READY), (plain(world, "1"), READY)]
        revisions = await history(world, key, *rows)
        assert [r.deployed_by for r in revisions] == ["", ""]
        back = await rollback(world, key, force=True)
        assert (back.action, back.service.spec) == (Action.UPDATED, plain(world, "1"))
        await world.told.ready(key, back.service.generation)
        await history(world, key, (plain(world, "1"), READY), *rows)

    async def test_scaling_the_strategy_and_a_stop_alone_make_no_revision(
        self, world: World
    ) -> None:
        first = await world.cluster.apply(deploy(world, plain(world)))
        key = first.service.key
        last = first
        for spec, stop in (
            (plain(world, scaling=Scaling(max_replicas=1)), "false"),
            (plain(world, scaling=Scaling(max_replicas=1)), "true"),
        ):
            asked = annotated(world, {STOP_ANNOTATION: stop})
            last = await world.cluster.apply(deploy(world, spec, annotations=asked))
        for stop in (False, True, False):
            last = await world.cluster.apply(deploy(world, None, stop=stop))
        [only] = await revisions_of(world.cluster, key)
        assert only.rollout == first.rollout
        assert only.content
        assert only.content.spec == last.service.spec
        assert only.content.annotations == last.service.annotations

    async def test_a_change_of_the_strategy_alone_makes_no_revision(self, world: World) -> None:
        needs(world, Ability.ONE_MODE)
        first = await world.cluster.apply(deploy(world, plain(world)))
        recreate = plain(world, rollout_strategy=RolloutStrategy(RECREATE))
        await world.cluster.apply(deploy(world, recreate))
        [only] = await revisions_of(world.cluster, first.service.key)
        assert only.rollout == first.rollout

    async def test_a_restart_is_a_revision_that_a_rollback_passes_over(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        first = await good(world, "1")
        key = first.service.key
        restarted = await world.cluster.apply(deploy(world, None, restart=True))
        await world.told.ready(key, restarted.service.generation)
        rows: list[Row] = [(plain(world, "1"), READY)] * 2
        assert (await history(world, key, *rows))[0].rollout == restarted.rollout
        with pytest.raises(NoReadyRevision):
            await rollback(world, key)

    async def test_a_revision_that_is_replaced_early_is_superseded(self, world: World) -> None:
        key = (await world.cluster.apply(deploy(world, world.never_ready()))).service.key
        second = dataclasses.replace(world.never_ready(), env={"A": "1"})
        await world.cluster.apply(deploy(world, second))
        await history(world, key, (second, None), (world.never_ready(), SUPERSEDED))

    async def test_a_revision_names_its_user(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world, "1"), user="ann"))
        await world.cluster.apply(deploy(world, plain(world, "2"), user="bob"))
        revisions = await revisions_of(world.cluster, first.service.key)
        assert [r.deployed_by for r in revisions] == ["bob", "ann"]

    async def test_the_newest_revisions_and_the_last_ready_one_are_kept(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        first = await good(world, "1")
        key = first.service.key
        for nth in range(MOST_REVISIONS + 2):
            await world.cluster.apply(deploy(world, world.failing(str(nth % 2))))
        rows: list[Row] = [(world.failing(str(nth % 2)), None) for nth in range(MOST_REVISIONS)]

        def specs(revisions: list[Revision]) -> list[InferenceServiceSpec | None]:
            return [r.content and r.content.spec for r in revisions]

        expected = [spec for spec, _ in reversed(rows)] + [plain(world, "1")]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while specs(await revisions_of(world.cluster, key)) != expected:
                await asyncio.sleep(0.05)
        back = await rollback(world, key)
        assert back.service.spec == plain(world, "1")

    async def test_a_content_that_is_too_large_has_an_outcome_and_is_no_way_back(
        self, world: World
    ) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        first = await good(world, "1")
        key = first.service.key
        env = {f"V{n}": "x" * 1000 for n in range(LARGEST_CONTENT // 1000)}
        large = await world.cluster.apply(deploy(world, plain(world, "2", env=env)))
        await world.told.ready(key, large.service.generation)
        [present, _] = await history(
            world, key, (large.service.spec, READY), (plain(world, "1"), READY)
        )
        await good(world, "3")
        await history(world, key, (plain(world, "3"), READY), (plain(world, "1"), READY))
        [_, unknown, _] = await revisions_of(world.cluster, key)
        assert (unknown.rollout, unknown.outcome) == (present.rollout, READY)
        with pytest.raises(RevisionNotFound, match="it has more than 256 KiB"):
            await rollback(world, key, large.service.generation)
        back = await rollback(world, key)
        assert back.service.spec == plain(world, "1")

    async def test_a_service_that_is_created_again_begins_anew(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        first = await good(world, "1")
        key = first.service.key
        await good(world, "2")
        await world.keep(key)
        await world.cluster.delete(Delete(key))
        await world.finish_delete(key)
        await world.told.until("it is gone", lambda: world.told.latest(key) is None)
        assert await revisions_of(world.cluster, key) == []
        again = await good(world, "3")
        [only] = await history(world, key, (plain(world, "3"), READY))
        assert only.rollout == again.rollout
        with pytest.raises(NoReadyRevision):
            await rollback(world, key)
