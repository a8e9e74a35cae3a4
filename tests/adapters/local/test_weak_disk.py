"""A disk that fails halfway: what serves is what a restart would find."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from server.adapters.local import state_dir
from server.adapters.local.fsync import sync
from server.adapters.local.state_dir import StateDir
from server.adapters.local.stored_service import Record, from_json
from server.domain.errors import ClusterUnavailable, WriteOutcomeUnknown
from server.domain.rollout.status import State
from server.domain.service.commands import Delete
from tests.adapters.local.world import IRIS, World, eventually


def _fails(place: Path) -> None:
    """Bring to disk what a service rests on, and not the name of its file."""
    if place.name == "services":
        raise OSError(errno.EIO, "Input/output error")
    sync(place)


async def test_what_may_be_stored_is_served_updated_and_deleted_as_if_it_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.model("1"), world.model("2")
    with monkeypatch.context() as patched:
        patched.setattr(state_dir, "sync", _fails)
        for _ in range(2):
            with pytest.raises(WriteOutcomeUnknown):
                await world.deploy(first, request_id="job-1")
        assert await world.cluster.read(IRIS)
    retried = await world.deploy(first, request_id="job-1")
    assert retried.service.generation == 1
    await world.until(State.READY)
    with monkeypatch.context() as patched:
        patched.setattr(state_dir, "sync", _fails)
        with pytest.raises(WriteOutcomeUnknown):
            await world.deploy(second)
    updated = await world.until(State.READY, generation=2)
    assert await world.generation_of(updated) == 2
    with monkeypatch.context() as patched:
        patched.setattr(state_dir, "sync", _fails)
        for _ in range(2):
            with pytest.raises(WriteOutcomeUnknown):
                await world.cluster.delete(Delete(IRIS))
    await world.told.until("gone", lambda: world.told.latest(IRIS) is None)


async def test_a_readiness_that_could_not_be_stored_is_stored_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = StateDir.write

    def full(state: StateDir, record: Record) -> None:
        if record.ready:
            raise ClusterUnavailable("full")
        write(state, record)

    with monkeypatch.context() as patched:
        patched.setattr(StateDir, "write", full)
        await world.ready(world.model())
    await eventually("its readiness on disk", lambda: _stored(world).ready)


def _stored(world: World) -> Record:
    [file] = (world.folder / "state" / "services").glob("*.json")
    return from_json(file.read_bytes())


async def test_what_a_server_left_is_removed_beside_the_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, threads = shutil.rmtree, set[threading.Thread]()

    def removing(*arguments: Any, **options: Any) -> None:
        threads.add(threading.current_thread())
        remove(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", removing)
    await world.ready(world.model())
    assert threads
    assert threading.main_thread() not in threads
