"""Delete, and services that are going or not ours, on any cluster."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from server.domain.errors import (
    EtagMismatch,
    FieldInvalid,
    NotManaged,
    ServiceDeleting,
    ServiceNotFound,
)
from server.domain.rollout.status import State
from server.domain.service.commands import Action, Delete, Deploy
from server.domain.service.inference_service import ContainerPredictor, InferenceService, ServiceKey
from tests.contracts.deploying import SPECS
from tests.contracts.world import Ability, Gone, World, deploy, needs, plain


class DeleteConformance:
    """A deleted service stays DELETING until it is gone."""

    async def test_a_deleted_service_is_told_deleting_then_gone(self, world: World) -> None:
        told = world.told
        made = await world.cluster.apply(deploy(world, plain(world)))
        key = made.service.key
        await told.until("the service", lambda: told.latest(key))
        await world.keep(key)
        going = await world.cluster.delete(Delete(key))
        assert going.uid == made.service.uid
        assert going.status.state is State.DELETING
        assert going.delete_time is not None
        await told.until("the deletion", lambda: _is_deleting(told.latest(key)))
        await world.finish_delete(key)
        await told.until("gone", lambda: told.latest(key) is None)
        *before, gone = told.history(key)
        assert gone.uid == made.service.uid
        assert before[-1].status.state is State.DELETING
        assert await world.cluster.read(key) is None

    async def test_a_deletion_is_no_rollout_of_its_own(self, world: World) -> None:
        told = world.told
        made = await world.cluster.apply(deploy(world, plain(world)))
        key = made.service.key
        await told.until("the service", lambda: told.latest(key))
        await world.keep(key)
        going = await world.cluster.delete(Delete(key))
        await told.until("the deletion", lambda: _is_deleting(told.latest(key)))
        read = await world.cluster.read(key)
        again = await world.cluster.delete(Delete(key))
        await world.finish_delete(key)
        await told.until("gone", lambda: told.latest(key) is None)
        assert read is not None
        seen = [s for s in told.history(key) if not isinstance(s, Gone)]
        assert {s.rollout for s in (going, read, again, *seen)} == {made.rollout}

    async def test_deleting_it_again_meanwhile_is_fine(self, world: World) -> None:
        made = await world.cluster.apply(deploy(world, plain(world)))
        await world.keep(made.service.key)
        first = await world.cluster.delete(Delete(made.service.key))
        again = await world.cluster.delete(Delete(made.service.key))
        assert again.status.state is State.DELETING
        assert (again.uid, again.delete_time) == (first.uid, first.delete_time)
        await world.finish_delete(made.service.key)

    async def test_nothing_is_deployed_onto_a_service_being_deleted(self, world: World) -> None:
        made = await world.cluster.apply(deploy(world, plain(world), request_id="job-1"))
        await world.keep(made.service.key)
        await world.cluster.delete(Delete(made.service.key))
        for asked in (
            deploy(world, plain(world, "2")),
            deploy(world, plain(world), request_id="job-1"),
            deploy(world, plain(world, "2"), force=True),
            deploy(world, None, restart=True),
        ):
            with pytest.raises(ServiceDeleting):
                await world.cluster.apply(asked)
        await world.finish_delete(made.service.key)

    async def test_deleting_an_absent_service_is_not_found(self, world: World) -> None:
        for namespace in (world.namespace, world.missing_namespace):
            with pytest.raises(ServiceNotFound):
                await world.cluster.delete(Delete(ServiceKey(namespace, "absent")))

    async def test_a_stale_etag_deletes_nothing_and_the_present_one_does(
        self, world: World
    ) -> None:
        first = await world.cluster.apply(deploy(world, plain(world, "1")))
        second = await world.cluster.apply(deploy(world, plain(world, "2")))
        key = first.service.key
        with pytest.raises(EtagMismatch):
            await world.cluster.delete(Delete(key, etag=first.service.etag))
        stored = await world.cluster.read(key)
        assert stored is not None
        assert stored.delete_time is None
        going = await world.cluster.delete(Delete(key, etag=second.service.etag))
        assert going.status.state is State.DELETING

    async def test_a_dry_run_deletes_nothing(self, world: World) -> None:
        made = await world.cluster.apply(deploy(world, plain(world)))
        key = made.service.key
        would = await world.cluster.delete(Delete(key, validate_only=True))
        assert would.uid == made.service.uid
        assert would.status.state is not State.DELETING
        stored = await world.cluster.read(key)
        assert stored is not None
        assert stored.delete_time is None

    async def test_a_service_made_anew_has_another_uid_and_forgets_the_requests(
        self, world: World
    ) -> None:
        asked = deploy(world, plain(world), request_id="job-1")
        told = world.told
        old = await world.cluster.apply(asked)
        await told.until("the old one", lambda: told.latest(asked.key))
        await world.keep(asked.key)
        await world.cluster.delete(Delete(asked.key))
        await world.finish_delete(asked.key)
        await told.until("gone", lambda: told.latest(asked.key) is None)
        new = await world.cluster.apply(asked)
        assert new.action is Action.CREATED
        assert new.service.uid != old.service.uid
        assert new.rollout != old.rollout
        await told.until("the new one", lambda: told.latest(asked.key))
        history = told.history(asked.key)
        [end] = [index for index, change in enumerate(history) if isinstance(change, Gone)]
        assert {change.uid for change in history[: end + 1]} == {old.service.uid}
        assert {change.uid for change in history[end + 1 :]} == {new.service.uid}


class UnmanagedConformance:
    """A service that somebody else made is followed, and touched only by force."""

    async def test_it_is_told_as_unmanaged_with_what_it_has(self, world: World) -> None:
        needs(world, Ability.OTHER_WRITERS)
        told = world.told
        await world.make_unmanaged("theirs", "registry.example/x:1", {"team": "b"})
        key = ServiceKey(world.namespace, "theirs")
        await told.until("theirs", lambda: told.latest(key))
        service = told.latest(key)
        assert service is not None
        assert service.unmanaged
        assert service.spec is not None
        assert isinstance(service.spec.predictor, ContainerPredictor)
        assert service.spec.predictor.image == "registry.example/x:1"
        assert service.labels["team"] == "b"
        assert service.selectable_labels["team"] == "b"

    async def test_only_force_adopts_it(self, world: World) -> None:
        needs(world, Ability.OTHER_WRITERS)
        await world.make_unmanaged("theirs", "registry.example/x:1", {})
        wanted = deploy(world, plain(world, "2"), "theirs")
        before = await world.cluster.read(wanted.key)
        assert before is not None
        with pytest.raises(NotManaged):
            await world.cluster.apply(wanted)
        after = await world.cluster.read(wanted.key)
        assert after is not None
        assert (after.rollout, after.etag, after.unmanaged) == (before.rollout, before.etag, True)
        adopted = await world.cluster.apply(deploy(world, plain(world, "2"), "theirs", force=True))
        assert adopted.action is Action.UPDATED
        assert not adopted.service.unmanaged
        assert adopted.service.spec == plain(world, "2")
        assert adopted.service.uid == before.uid
        again = await world.cluster.apply(wanted)
        assert (again.action, again.rollout) == (Action.UNCHANGED, adopted.rollout)

    async def test_a_key_of_the_platforms_is_given_back_only_as_it_is(self, world: World) -> None:
        needs(world, Ability.OTHER_WRITERS)
        held = {"serving.kserve.io/tier": "gold"}
        await world.make_unmanaged("theirs", "registry.example/x:1", held)
        found = await world.cluster.read(ServiceKey(world.namespace, "theirs"))
        assert found is not None

        def given(labels: Mapping[str, str], *, force: bool = False) -> Deploy:
            return deploy(world, found.spec, "theirs", labels=labels, force=force)

        with pytest.raises(FieldInvalid, match="tier"):
            await world.cluster.apply(given({"serving.kserve.io/tier": "iron"}, force=True))
        adopted = await world.cluster.apply(given(found.labels, force=True))
        assert adopted.service.labels.items() >= held.items()
        again = await world.cluster.apply(given(adopted.service.labels))
        assert (again.action, again.service.labels) == (Action.UNCHANGED, adopted.service.labels)
        with pytest.raises(FieldInvalid, match="tier"):
            await world.cluster.apply(deploy(world, found.spec, "new", labels=held))

    async def test_force_changes_its_kind_of_predictor(self, world: World) -> None:
        needs(world, Ability.OTHER_WRITERS)
        await world.make_unmanaged("theirs", "registry.example/x:1", {})
        model = SPECS["a bare model"]
        adopted = await world.cluster.apply(deploy(world, model, "theirs", force=True))
        assert adopted.service.spec == model

    async def test_only_force_deletes_it(self, world: World) -> None:
        needs(world, Ability.OTHER_WRITERS)
        await world.make_unmanaged("theirs", "registry.example/x:1", {})
        key = ServiceKey(world.namespace, "theirs")
        with pytest.raises(NotManaged):
            await world.cluster.delete(Delete(key))
        going = await world.cluster.delete(Delete(key, force=True))
        assert going.status.state is State.DELETING


def _is_deleting(service: InferenceService | None) -> bool:
    return service is not None and service.status.state is State.DELETING
