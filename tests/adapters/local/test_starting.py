"""What keeps a model server from its start: no runtime, no command, no room."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from server.adapters.local.rollouts.failure_messages import start_failure
from server.adapters.local.state_dir import StateDir
from server.domain.errors import ClusterUnavailable
from server.domain.rollout.status import FailureReason, State
from server.domain.service.commands import Delete
from server.domain.service.inference_service import ModelFormat, ModelPredictor, ServiceKey
from tests.adapters.local.world import IRIS, World, failure_of, world_of
from tests.small_disk import fill


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("sklearn", "bin/python does not start", "make serving"),
        ("unheard-of", "no serving runtime", "use one of "),
        ("gone", "cannot start /absent/model-server: No such file", "install what"),
    ],
)
async def test_without_a_runtime_the_remedy_says_what_to_do(
    world: World, tmp_path: Path, name: str, message: str, remedy: str
) -> None:
    """The first has a runtime, but there is no serving environment; the last has no command."""
    model = ModelPredictor(ModelFormat(name), str(tmp_path / "1.json"))
    failure = await failure_of(world, replace(world.model(), predictor=model))
    assert failure.reason is FailureReason.NO_RUNTIME
    assert message in failure.message
    assert remedy in failure.remedy


async def test_a_python_that_was_removed_under_the_server_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = str(tmp_path / "removed" / "python")
    monkeypatch.setattr(sys, "executable", removed)
    failure = await failure_of(world, world.model())
    assert (
        failure.message
        == f"the model server cannot be started: No such file or directory: {removed}"
    )
    assert "restart the server" in failure.remedy


async def test_a_server_that_itself_ends_with_127_has_a_runtime(world: World) -> None:
    failure = await failure_of(world, world.model(exit=127))
    assert failure.reason is FailureReason.MODEL_LOAD


async def test_more_environment_than_a_process_can_have_is_no_matter_of_the_disk(
    world: World,
) -> None:
    """Linux takes 128 KiB a text."""
    failure = await failure_of(world, replace(world.model(), env={"LONG": "x" * 2**18}))
    assert failure.reason is FailureReason.CONTAINER_CONFIG
    assert "shorten spec.env" in failure.remedy


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, FailureReason.VOLUME),
        (errno.EAGAIN, FailureReason.UNSCHEDULABLE),
        (errno.EMFILE, FailureReason.UNSCHEDULABLE),
    ],
)
def test_each_cause_that_prevents_a_start_has_its_reason(
    number: int, reason: FailureReason
) -> None:
    failure = start_failure(OSError(number, os.strerror(number)))
    assert failure.reason is reason
    assert os.strerror(number) in failure.message


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk is made by root on Linux"
)
async def test_a_full_disk_refuses_what_it_cannot_keep_and_what_runs_goes_on(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "state", kilobytes=200):
        async with world_of(tmp_path) as world:
            ready = await world.ready(world.model())
            (tmp_path / "state" / "filler").write_bytes(_all_but_a_page(tmp_path / "state"))
            key = IRIS._replace(name="large")
            await world.deploy(world.model("large", says="x" * 50_000), key)
            failed = await world.until(State.FAILED, key=key)
            assert failed.status.failure
            assert failed.status.failure.reason is FailureReason.STORAGE_DOWNLOAD
            assert "space" in failed.status.failure.message.lower()
            with pytest.raises(ClusterUnavailable, match="No space left"):
                await world.deploy(
                    replace(world.model("2"), env={"LONG": "x" * 10_000}), labels={"a": "1"}
                )
            assert await world.generation_of(ready) == 1
            (tmp_path / "state" / "filler").unlink()
            await world.ready(world.model("2"))
            await world.until(State.READY, key=key)


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk is made by root on Linux"
)
async def test_a_full_disk_is_freed_by_a_delete_which_a_restart_carries_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = IRIS._replace(name="other")
    with small_disk(tmp_path / "state", kilobytes=400):
        async with world_of(tmp_path) as world:
            await world.ready(world.model("1", says="x" * 50_000))
            await world.ready(world.model("2"), other)
            fill(tmp_path / "state")
            await world.gone()
            assert os.statvfs(tmp_path / "state").f_bavail * 4096 > 50_000
            fill(tmp_path / "state")
            monkeypatch.setattr(StateDir, "remove", _refuse)
            await world.cluster.delete(Delete(other))
        monkeypatch.undo()
        fill(tmp_path / "state")
        async with world_of(tmp_path) as world:
            await world.told.until("gone", lambda: world.told.latest(other) is None)
            assert list((tmp_path / "state" / "services").iterdir()) == []


def _refuse(_: StateDir, key: ServiceKey) -> None:
    raise ClusterUnavailable(f"no: {key}")


def _all_but_a_page(folder: Path) -> bytes:
    room = os.statvfs(folder)
    return b"x" * (room.f_bavail * room.f_frsize - 2 * room.f_frsize)


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[None]:
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs", str(at)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small disk can be made here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)
