"""The revisions of the local cluster survive its server, with the state that they belong to."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
from pathlib import Path

import pytest
import structlog

from server.adapters.local import state_dir
from server.adapters.local.fsync import sync
from server.adapters.local.state_dir import open_state_dir
from server.adapters.local.stored_service import from_json
from server.control.call import Call
from server.control.rollouts import Rollback
from server.domain.errors import ClusterUnavailable, RevisionNotFound
from server.domain.revisions.revision import Revision, RevisionContent, RevisionOutcome
from server.domain.rollout.status import FailureReason, State
from server.domain.service.commands import STOP_ANNOTATION, Delete
from server.domain.service.deploy_plan import current_revisions
from server.domain.service.inference_service import Scaling
from tests.adapters.local.world import IRIS, World, world_of
from tests.contracts.rolling_back import revisions_of, rollouts_on
from tests.patience import PATIENCE_SECONDS

READY, FAILED, SUPERSEDED = RevisionOutcome
# So that no model server runs.
STOPPED = {STOP_ANNOTATION: "true"}


def services_file(folder: Path, stored: str) -> Path:
    """The file of the service, as an earlier release has stored it."""
    services = folder / "state" / "services"
    services.mkdir(parents=True)
    file = services / "model-serving.iris.json"
    file.write_bytes((Path(__file__).parent / stored).read_bytes())
    return file


async def revisions(world: World) -> list[Revision]:
    return await revisions_of(world.cluster, IRIS)


async def rollback(world: World, number: int = 0) -> int:
    """Roll back, and return the number of the revision that it went to."""
    rollouts = rollouts_on(world.cluster, IRIS.namespace)
    await rollouts.rollback(Call(), Rollback(IRIS, number))
    return (await revisions(world))[0].rollback_of


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


async def test_the_contents_of_revisions_are_the_same_after_a_restart_and_go_with_their_service(
    tmp_path: Path,
) -> None:
    stored = tmp_path / "state" / "contents"
    async with world_of(tmp_path) as world:
        for tag in ("1", "2", "3"):
            await world.deploy(world.model(tag), labels={"tag": tag}, annotations=STOPPED)
        scaled = dataclasses.replace(world.model("3"), scaling=Scaling(max_replicas=1))
        await world.deploy(scaled, labels={"tag": "3"}, annotations=STOPPED)
        before = await revisions(world)
    specs = [scaled, world.model("2"), world.model("1")]
    expected = [
        RevisionContent(spec, {"tag": tag}, STOPPED) for spec, tag in zip(specs, "321", strict=True)
    ]
    assert [revision.content for revision in before] == expected
    async with world_of(tmp_path) as world:
        assert await revisions(world) == before
        [folder] = stored.iterdir()
        assert sorted(file.name for file in folder.iterdir()) == ["1.json", "2.json"]
        await world.gone()
        assert list(stored.iterdir()) == []


async def test_the_content_of_a_pruned_revision_is_removed(tmp_path: Path) -> None:
    async with world_of(tmp_path, most_revisions=2) as world:
        for tag in "12345":
            await world.deploy(world.model(tag), annotations=STOPPED)
        assert [revision.number for revision in await revisions(world)] == [5, 4]
        [folder] = (tmp_path / "state" / "contents").iterdir()
        assert [file.name for file in folder.iterdir()] == ["4.json"]


async def test_a_content_that_cannot_be_read_is_unknown_and_the_others_are_there(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        for tag in "123":
            await world.deploy(world.model(tag), annotations=STOPPED)
        [folder] = (tmp_path / "state" / "contents").iterdir()
        (folder / "2.json").write_text("{")
        found = await revisions(world)
    assert [bool(revision.content) for revision in found] == [True, False, True]


@pytest.mark.parametrize("number", [0, 2])
async def test_where_a_content_cannot_be_read_for_a_moment_a_rollback_is_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    read = Path.read_bytes

    def exhausted(file: Path) -> bytes:
        if file.name == "2.json":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(file))
        return read(file)

    async with world_of(tmp_path) as world:
        for tag in "123":
            await world.ready(world.model(tag))
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", exhausted)
            with pytest.raises(ClusterUnavailable, match=r"revision 2 .* Too many open") as refused:
                await rollback(world, number)
            assert str(tmp_path) not in refused.value.message
        assert await rollback(world, number) == 2


async def test_a_rollback_to_a_damaged_content_is_refused_and_goes_no_further_back(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        for tag in "123":
            await world.ready(world.model(tag))
        [folder] = (tmp_path / "state" / "contents").iterdir()
        (folder / "2.json").write_text('{"password')
        for number in (0, 2):
            with (
                structlog.testing.capture_logs() as logged,
                pytest.raises(RevisionNotFound, match=r"revision 2 .* is damaged"),
            ):
                await rollback(world, number)
            [damaged] = [line for line in logged if line["log_level"] == "error"]
            assert damaged["file"] == str(folder / "2.json")
            assert "password" not in str(logged)
        assert await rollback(world, 1) == 1


async def test_a_service_is_gone_only_once_its_contents_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, refused = Path.unlink, asyncio.Event()

    def failing(file: Path, missing_ok: bool = False) -> None:
        if file.name == "1.json":
            refused.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(file, missing_ok)

    async with world_of(tmp_path) as world:
        for tag in "123":
            await world.deploy(world.model(tag), annotations=STOPPED)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", failing)
            await world.cluster.delete(Delete(IRIS))
            await asyncio.wait_for(refused.wait(), PATIENCE_SECONDS)
            assert await world.cluster.read(IRIS)
        await world.told.until("gone", lambda: world.told.latest(IRIS) is None)
        assert list((tmp_path / "state" / "contents").iterdir()) == []


async def test_what_an_earlier_release_stored_in_one_file_is_kept_apart(tmp_path: Path) -> None:
    file = services_file(tmp_path, "stored_with_its_contents.json")
    variables = {"A": "1"}, {"A": "2"}, {"A": "1"}
    size = file.stat().st_size
    for _ in range(2):
        async with world_of(tmp_path) as world:
            found = await revisions(world)
            assert [r.content and r.content.spec.env for r in found] == list(variables)
            assert outcomes(found) == [(3, None), (2, SUPERSEDED), (1, READY)]
            assert file.stat().st_size < size
    async with world_of(tmp_path) as world:
        await world.deploy(world.model("4"), annotations=STOPPED)
        found = await revisions(world)
    assert [r.content and r.content.spec.env for r in found] == [{}, *variables]


async def test_where_it_cannot_be_kept_apart_yet_it_is_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = services_file(tmp_path, "stored_with_its_contents.json")
    size = file.stat().st_size

    def full(place: Path) -> None:
        if place.name == "contents":
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(place)

    with monkeypatch.context() as patched:
        patched.setattr(state_dir, "sync", full)
        async with world_of(tmp_path) as world:
            assert all(revision.content for revision in await revisions(world))
    assert file.stat().st_size == size
    async with world_of(tmp_path) as world:
        assert all(revision.content for revision in await revisions(world))
    assert file.stat().st_size < size


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
    file = services_file(tmp_path, "stored_before_the_registry.json")
    with open_state_dir(tmp_path / "state") as state:
        [record] = state.records()
    service = from_json(file.read_bytes()).service
    [only] = current_revisions(record.stored)
    assert only.rollout == service.rollout
    assert only.content
    assert only.content.spec == service.spec
    assert not only.gap
