"""The revisions of the local cluster survive its server, with the state that they belong to."""

from __future__ import annotations

from pathlib import Path

from server.adapters.local.state_dir import open_state_dir
from server.adapters.local.stored_service import from_json
from server.domain.revisions.revision import Revision, RevisionOutcome
from server.domain.rollout.status import FailureReason, State
from server.domain.service.deploy_plan import current_revisions
from tests.adapters.local.world import IRIS, World, world_of
from tests.contracts.rolling_back import revisions_of

READY, FAILED, SUPERSEDED = RevisionOutcome


async def revisions(world: World) -> list[Revision]:
    return await revisions_of(world.cluster, IRIS)


def outcomes(found: list[Revision]) -> list[tuple[int, RevisionOutcome | None]]:
    return [(revision.number, revision.outcome) for revision in found]


async def test_revisions_and_their_outcomes_are_the_same_after_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.ready(world.model("1"))
        await world.deploy(world.model("2", exit=1, says="RuntimeError: no"), user="ann")
        await world.until(State.DEGRADED)
        before = await revisions(world)
    assert outcomes(before) == [(2, FAILED), (1, READY)]
    async with world_of(tmp_path) as world:
        after = await revisions(world)
        assert outcomes(after) == outcomes(before)
        assert after[1] == before[1]
        assert after[0].deployed_by == "ann"
        assert after[0].failure
        assert after[0].failure.reason is FailureReason.MODEL_LOAD
        await world.ready(world.model("3"))
        assert outcomes(await revisions(world)) == [(3, READY), (2, FAILED), (1, READY)]


async def test_a_failed_revision_becomes_ready_and_stays_so(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.deploy(world.model("1", exit=1))
        await world.until(State.FAILED)
        assert outcomes(await revisions(world)) == [(1, FAILED)]
        # An unchanged Deploy fetches the model again, which is whole by now.
        await world.ready(world.model("1"))
        [ready] = await revisions(world)
        assert (ready.outcome, ready.failure) == (READY, None)
        await world.deploy(None, restart=True)
        await world.until(State.READY, generation=2)
        await world.deploy(world.model("2", exit=1))
        await world.until(State.DEGRADED)
    async with world_of(tmp_path) as world:
        assert outcomes(await revisions(world)) == [(3, FAILED), (2, READY), (1, READY)]


def test_a_service_of_a_release_before_revisions_has_one(tmp_path: Path) -> None:
    file = Path(__file__).parent / "stored_before_the_registry.json"
    services = tmp_path / "state" / "services"
    services.mkdir(parents=True)
    (services / "team.iris.json").write_bytes(file.read_bytes())
    with open_state_dir(tmp_path / "state") as state:
        [record] = state.records()
    service = from_json(file.read_bytes()).service
    [only] = current_revisions(record.stored)
    assert only.rollout == service.rollout
    assert only.content
    assert only.content.spec == service.spec
    assert not only.gap
