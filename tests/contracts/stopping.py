"""Stop and Start, on any cluster: an annotation is changed, all else stays."""

from __future__ import annotations

import pytest

from server.domain.errors import (
    FieldConflict,
    NotManaged,
    RolloutGone,
    RolloutSuperseded,
    ServiceNotFound,
)
from server.domain.rollout.status import State
from server.domain.service.commands import STOP_ANNOTATION, Action
from server.domain.service.inference_service import InferenceService, ServiceKey
from tests.contracts.world import Ability, World, deploy, needs, plain

STOPPED, STARTED = {STOP_ANNOTATION: "true"}, {STOP_ANNOTATION: "false"}


class StopConformance:
    """A Stop and a Start are writes of their own."""

    async def test_a_stop_and_a_start_keep_all_but_one_annotation(self, world: World) -> None:
        needs(world, Ability.STOPPING)
        asked = deploy(world, plain(world), labels={"team": "a"}, annotations={"note": "7"})
        first = await world.cluster.apply(asked)
        stopped = await world.cluster.apply(deploy(world, None, stop=True))
        started = await world.cluster.apply(deploy(world, None, stop=False))
        for applied, annotation in ((stopped, STOPPED), (started, STARTED)):
            assert applied.action is Action.UPDATED
            assert applied.service.annotations == {"note": "7", **annotation}
            assert applied.service.spec == first.service.spec
            assert applied.service.labels == first.service.labels
            assert applied.rollout == applied.service.rollout
        assert len({first.rollout, stopped.rollout, started.rollout}) == 3

    async def test_a_stop_of_what_is_stopped_is_unchanged_and_so_is_a_start_of_what_runs(
        self, world: World
    ) -> None:
        needs(world, Ability.STOPPING)
        first = await world.cluster.apply(deploy(world, plain(world)))
        running = await world.cluster.apply(deploy(world, None, stop=False))
        assert (running.action, running.rollout) == (Action.UNCHANGED, first.rollout)
        assert running.service.etag == first.service.etag
        stopped = await world.cluster.apply(deploy(world, None, stop=True))
        again = await world.cluster.apply(deploy(world, None, stop=True))
        assert (again.action, again.rollout) == (Action.UNCHANGED, stopped.rollout)

    async def test_an_absent_service_is_neither_stopped_nor_started(self, world: World) -> None:
        for stop in (True, False):
            with pytest.raises(ServiceNotFound):
                await world.cluster.apply(deploy(world, None, stop=stop))

    async def test_only_the_newest_rollout_is_stopped(self, world: World) -> None:
        needs(world, Ability.STOPPING)
        first = await world.cluster.apply(deploy(world, plain(world, "1")))
        newest = await world.cluster.apply(deploy(world, plain(world, "2")))
        assert first.rollout
        assert newest.rollout
        with pytest.raises(RolloutSuperseded):
            await world.cluster.apply(deploy(world, None, stop=True, only_rollout=first.rollout))
        of_another = newest.rollout._replace(uid="another")
        with pytest.raises(RolloutGone):
            await world.cluster.apply(deploy(world, None, stop=True, only_rollout=of_another))
        stored = await world.cluster.read(newest.service.key)
        assert stored
        assert stored.rollout == newest.rollout
        done = await world.cluster.apply(
            deploy(world, None, stop=True, only_rollout=newest.rollout)
        )
        assert done.action is Action.UPDATED

    async def test_a_repeated_stop_answers_the_first_one(self, world: World) -> None:
        needs(world, Ability.STOPPING)
        made = await world.cluster.apply(deploy(world, plain(world)))
        asked = deploy(world, None, stop=True, request_id="job-1", only_rollout=made.rollout)
        first = await world.cluster.apply(asked)
        started = await world.cluster.apply(deploy(world, None, stop=False))
        again = await world.cluster.apply(asked)
        assert (again.action, again.rollout) == (Action.UPDATED, first.rollout)
        assert again.service.rollout == started.rollout

    async def test_a_dry_run_of_a_stop_writes_nothing(self, world: World) -> None:
        needs(world, Ability.STOPPING)
        made = await world.cluster.apply(deploy(world, plain(world)))
        dry = await world.cluster.apply(deploy(world, None, stop=True, validate_only=True))
        assert (dry.action, dry.rollout) == (Action.UPDATED, None)
        assert dry.service.annotations == STOPPED
        stored = await world.cluster.read(made.service.key)
        assert stored
        assert stored.rollout == made.rollout

    async def test_a_service_of_others_is_stopped_by_force_only(self, world: World) -> None:
        needs(world, Ability.STOPPING, Ability.OTHER_WRITERS)
        await world.make_unmanaged("iris", "registry.example/models/theirs:1", {})
        with pytest.raises(NotManaged):
            await world.cluster.apply(deploy(world, None, stop=True))
        stopped = await world.cluster.apply(deploy(world, None, stop=True, force=True))
        assert stopped.action is Action.UPDATED
        assert not stopped.service.unmanaged

    async def test_a_start_of_what_others_stopped_names_them_and_needs_force(
        self, world: World
    ) -> None:
        needs(world, Ability.STOPPING, Ability.OTHER_WRITERS)
        made = await world.cluster.apply(deploy(world, plain(world)))
        await world.stop_as_others(made.service.key, "true")
        await refused_start(world)
        started = await world.cluster.apply(deploy(world, None, stop=False, force=True))
        assert (started.action, started.service.annotations) == (Action.UPDATED, STARTED)
        # It is ours now.
        for stop, annotation in ((True, STOPPED), (False, STARTED)):
            done = await world.cluster.apply(deploy(world, None, stop=stop))
            assert (done.action, done.service.annotations) == (Action.UPDATED, annotation)

    async def test_a_stop_of_what_others_started_needs_force_too(self, world: World) -> None:
        needs(world, Ability.STOPPING, Ability.OTHER_WRITERS)
        made = await world.cluster.apply(deploy(world, plain(world)))
        await world.cluster.apply(deploy(world, None, stop=True))
        await world.stop_as_others(made.service.key, "false")
        running = await world.cluster.apply(deploy(world, None, stop=False))
        assert (running.action, running.service.annotations) == (Action.UNCHANGED, STARTED)
        with pytest.raises(FieldConflict):
            await world.cluster.apply(deploy(world, None, stop=True))
        stopped = await world.cluster.apply(deploy(world, None, stop=True, force=True))
        assert (stopped.action, stopped.service.annotations) == (Action.UPDATED, STOPPED)

    async def test_what_others_stopped_stays_theirs_to_start_after_a_deploy(
        self, world: World
    ) -> None:
        needs(world, Ability.STOPPING, Ability.OTHER_WRITERS)
        made = await world.cluster.apply(deploy(world, plain(world, "1")))
        key = made.service.key
        await world.stop_as_others(key, "true")
        writes = (
            deploy(world, plain(world, "2")),
            deploy(world, plain(world, "3"), force=True),
            deploy(world, None, restart=True),
        )
        for write in writes:
            written = await world.cluster.apply(write)
            assert written.action in (Action.UPDATED, Action.RESTARTED)
            assert written.service.annotations == STOPPED
        await refused_start(world)
        await world.stop_as_others(key, None)
        running = await world.cluster.read(key)
        assert running
        assert running.annotations == {}

    async def test_a_stopped_service_is_told_stopped_and_a_started_one_ready(
        self, world: World
    ) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE, Ability.STOPPING)
        told = world.told
        made = await world.cluster.apply(deploy(world, plain(world)))
        key = made.service.key
        await told.ready(key, made.service.generation)
        stopped = await world.cluster.apply(deploy(world, None, stop=True))
        assert stopped.service.status.state in (State.PROGRESSING, State.STOPPED)
        await told.until("stopped", lambda: _state(told.latest(key)) is State.STOPPED)
        started = await world.cluster.apply(deploy(world, None, stop=False))
        await told.ready(key, started.service.generation)
        under_way = {State.PENDING, State.PROGRESSING}
        assert told_of(world, key, stopped.service) <= under_way | {State.STOPPED}
        assert told_of(world, key, started.service) <= under_way | {State.READY}


async def refused_start(world: World) -> None:
    """A Start without force is refused, names the annotation and its owner, and does nothing."""
    before = await world.cluster.read(ServiceKey(world.namespace, "iris"))
    assert before
    with pytest.raises(FieldConflict) as refused:
        await world.cluster.apply(deploy(world, None, stop=False))
    assert refused.value.metadata == {
        "fields": f"metadata.annotations.{STOP_ANNOTATION}",
        "owner": "gitops",
    }
    after = await world.cluster.read(before.key)
    assert after
    assert (after.annotations, after.etag) == (before.annotations, before.etag)


def told_of(world: World, key: ServiceKey, of: InferenceService) -> set[State]:
    """The states that were told of one generation."""
    services = [s for s in world.told.history(key) if isinstance(s, InferenceService)]
    return {s.status.state for s in services if s.generation == of.generation}


def _state(service: InferenceService | None) -> State | None:
    return service.status.state if service else None
