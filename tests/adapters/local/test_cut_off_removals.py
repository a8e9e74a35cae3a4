"""A removal of model files that a kill cuts off leaves no part of a model to be served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from server.adapters.local.state_dir import PARTIAL_SUFFIX, StateDir
from server.adapters.local.stored_service import Record
from server.domain.errors import ClusterUnavailable
from server.domain.rollout.status import State
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
)
from tests.adapters.local.world import eventually, world_of


def model_of_two_files(folder: Path, **orders: Any) -> InferenceServiceSpec:
    folder.mkdir(exist_ok=True)
    for name in ("first", "second"):
        (folder / name).write_text(json.dumps(orders))
    return InferenceServiceSpec(ModelPredictor(ModelFormat("test"), str(folder)))


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a kill leaves within the first removal of a model."""
    remove, folder = shutil.rmtree, tmp_path / "killed"

    def remove_slowly(path: Path, **options: Any) -> None:
        files = list(Path(path).rglob("first"))
        if files and not folder.exists():
            files[0].unlink()
            ignored = shutil.ignore_patterns("*.new")
            shutil.copytree(tmp_path / "state", folder / "state", ignore=ignored)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", remove_slowly)
    return folder


async def test_a_model_that_was_corrected_is_fetched_whole_after_a_kill(
    tmp_path: Path, killed: Path
) -> None:
    async with world_of(tmp_path) as world:
        spec = model_of_two_files(tmp_path / "iris", exit=1)
        await world.deploy(spec)
        await world.until(State.FAILED)
        model_of_two_files(tmp_path / "iris")
        await world.deploy(spec)
        await eventually("the removal", killed.exists)
        await world.until(State.READY)
    async with world_of(killed) as world:
        await world.until(State.READY)
        work = killed / "state" / "work"
        assert {file.name for file in work.glob("*/1/model/iris/*")} == {"first", "second"}
        await eventually("no rest", lambda: not list(work.rglob(f"*{PARTIAL_SUFFIX}")))


async def test_an_older_model_that_a_start_may_need_again_is_whole_or_gone_after_a_kill(
    tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = StateDir.write

    def full(state: StateDir, record: Record) -> None:
        """Store all but the readiness of the second generation."""
        if record.ready and record.ready.generation == 2:
            raise ClusterUnavailable("full")
        write(state, record)

    async with world_of(tmp_path) as world:
        await world.ready(model_of_two_files(tmp_path / "iris"))
        monkeypatch.setattr(StateDir, "write", full)
        await world.ready(model_of_two_files(tmp_path / "newer"))
        await eventually("the removal", killed.exists)
    assert not list((killed / "state" / "work").glob("*/1/model"))
