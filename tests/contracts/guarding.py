"""What keeps a Deploy from being done twice, or over somebody else's, on any cluster."""

from __future__ import annotations

import asyncio

import pytest

from server.domain.errors import AlreadyExists, EtagMismatch, RequestIdReused, ServiceNotFound
from server.domain.service.commands import Action, Applied
from server.domain.service.inference_service import Scaling
from tests.contracts.world import World, deploy, plain, within


class RequestIdConformance:
    """A request_id makes a retry safe."""

    async def test_the_same_request_twice_is_one_rollout(self, world: World) -> None:
        asked = deploy(world, plain(world), request_id="job-1")
        first = await world.cluster.apply(asked)
        again = await world.cluster.apply(asked)
        assert (first.action, again.action) == (Action.CREATED, Action.CREATED)
        assert again.rollout == first.rollout == again.service.rollout

    async def test_concurrent_duplicates_on_two_replicas_are_one_rollout(
        self, world: World
    ) -> None:
        asked = deploy(world, plain(world), request_id="job-1")
        async with world.replica() as (other, _):
            answers: list[Applied] = await asyncio.gather(
                *(cluster.apply(asked) for cluster in (world.cluster, other) * 3)
            )
        assert {answer.rollout for answer in answers} == {answers[0].rollout}
        assert {answer.action for answer in answers} == {Action.CREATED}
        stored = await world.cluster.read(asked.key)
        assert stored is not None
        assert stored.rollout == answers[0].rollout

    async def test_a_replay_answers_the_first_write_and_the_service_as_it_is_now(
        self, world: World
    ) -> None:
        asked = deploy(world, plain(world, "1"), request_id="job-1")
        first = await world.cluster.apply(asked)
        later = await world.cluster.apply(deploy(world, plain(world, "2"), request_id="job-2"))
        replay = await world.cluster.apply(asked)
        assert (replay.action, replay.rollout) == (Action.CREATED, first.rollout)
        assert replay.service.rollout == later.rollout
        assert replay.service.spec == plain(world, "2")

    async def test_an_id_is_not_taken_for_another_body(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world, "1"), request_id="job-1"))
        with pytest.raises(RequestIdReused):
            await world.cluster.apply(deploy(world, plain(world, "2"), request_id="job-1"))
        stored = await world.cluster.read(first.service.key)
        assert stored is not None
        assert stored.rollout == first.rollout

    async def test_a_replay_is_found_although_the_first_write_made_its_etag_stale(
        self, world: World
    ) -> None:
        made = await world.cluster.apply(deploy(world, plain(world, "1")))
        asked = deploy(world, plain(world, "2"), request_id="job-2", etag=made.service.etag)
        first = await world.cluster.apply(asked)
        replay = await world.cluster.apply(asked)
        assert (replay.action, replay.rollout) == (Action.UPDATED, first.rollout)

    async def test_a_repeated_change_of_scaling_alone_is_unchanged(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world), request_id="job-1"))
        scaled = deploy(
            world, within(world, plain(world, scaling=Scaling(2, 4))), request_id="job-2"
        )
        wider = await world.cluster.apply(scaled)
        assert wider.action is Action.UPDATED
        assert wider.rollout != first.rollout
        again = await world.cluster.apply(scaled)
        assert (again.action, again.rollout) == (Action.UNCHANGED, wider.rollout)

    async def test_a_change_of_scaling_alone_forgets_no_earlier_request(self, world: World) -> None:
        asked = deploy(world, plain(world), request_id="job-1")
        first = await world.cluster.apply(asked)
        await world.cluster.apply(deploy(world, within(world, plain(world, scaling=Scaling(2, 4)))))
        replay = await world.cluster.apply(asked)
        assert (replay.action, replay.rollout) == (Action.CREATED, first.rollout)


class GuardConformance:
    """etag, create_only and validate_only."""

    async def test_the_present_etag_admits_a_write(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world, "1")))
        updated = await world.cluster.apply(
            deploy(world, plain(world, "2"), etag=first.service.etag)
        )
        assert updated.action is Action.UPDATED

    async def test_a_stale_etag_is_refused_and_writes_nothing(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world, "1")))
        second = await world.cluster.apply(deploy(world, plain(world, "2")))
        with pytest.raises(EtagMismatch):
            await world.cluster.apply(deploy(world, plain(world, "3"), etag=first.service.etag))
        stored = await world.cluster.read(first.service.key)
        assert stored is not None
        assert (stored.rollout, stored.etag) == (second.rollout, second.service.etag)

    async def test_of_two_writers_with_one_etag_one_is_refused(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world, "0")))
        etag = first.service.etag
        async with world.replica() as (other, _):
            answers = await asyncio.gather(
                world.cluster.apply(deploy(world, plain(world, "1"), etag=etag)),
                other.apply(deploy(world, plain(world, "2"), etag=etag)),
                return_exceptions=True,
            )
        assert sum(isinstance(answer, EtagMismatch) for answer in answers) == 1
        [won] = [answer for answer in answers if isinstance(answer, Applied)]
        stored = await world.cluster.read(first.service.key)
        assert stored is not None
        assert stored.rollout == won.rollout

    async def test_an_etag_of_an_absent_service_is_not_found(self, world: World) -> None:
        asked = deploy(world, plain(world), etag="whatever")
        with pytest.raises(ServiceNotFound):
            await world.cluster.apply(asked)
        assert await world.cluster.read(asked.key) is None

    async def test_create_only_refuses_a_service_that_exists(self, world: World) -> None:
        created = await world.cluster.apply(deploy(world, plain(world), create_only=True))
        assert created.action is Action.CREATED
        with pytest.raises(AlreadyExists):
            await world.cluster.apply(deploy(world, plain(world, "2"), create_only=True))

    async def test_a_dry_run_tells_what_would_happen_and_writes_nothing(self, world: World) -> None:
        asked = deploy(world, plain(world, "1"), validate_only=True, request_id="job-1")
        would = await world.cluster.apply(asked)
        assert (would.action, would.rollout) == (Action.CREATED, None)
        assert would.service.spec == plain(world, "1")
        assert await world.cluster.read(asked.key) is None

        made = await world.cluster.apply(deploy(world, plain(world, "1")))
        would = await world.cluster.apply(deploy(world, plain(world, "2"), validate_only=True))
        assert (would.action, would.rollout) == (Action.UPDATED, None)
        assert would.service.spec == plain(world, "2")
        would = await world.cluster.apply(deploy(world, plain(world, "1"), validate_only=True))
        assert (would.action, would.rollout) == (Action.UNCHANGED, None)
        would = await world.cluster.apply(deploy(world, None, restart=True, validate_only=True))
        assert (would.action, would.rollout) == (Action.RESTARTED, None)
        stored = await world.cluster.read(asked.key)
        assert stored is not None
        assert (stored.rollout, stored.spec) == (made.rollout, plain(world, "1"))
