"""What the local cluster makes of real files is what docs/local.md says of them."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from demo import SERVING_PYTHON
from demo.training import trained
from server.adapters.local.runtimes import runtime_table
from server.adapters.local.runtimes.runtimes import has_package
from server.domain.rollout.failures import FAILURES
from server.domain.rollout.status import FailureReason, State
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
)
from server.domain.service.model_name import VARIABLE
from tests.adapters.local.serving import BRISK
from tests.adapters.local.world import World, world_of
from tests.real_models import ANSWER, NAME, REAL_MODELS, Row, documented

# One that has mlserver-xgboost, mlserver-lightgbm and mlserver-mlflow shows all of the table.
PYTHON = Path(os.environ.get("MODELSERVICE_TEST_SERVING_PYTHON") or SERVING_PYTHON)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not SERVING_PYTHON.exists(), reason="no .venv-serving: make serving"),
    pytest.mark.timeout(300),
]


def test_the_table_has_all_of_them() -> None:
    assert [row.files for row in documented()] == list(REAL_MODELS)


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trained") / "iris.joblib"
    trained(file)
    return file


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    hour = timedelta(hours=1)
    timeouts = replace(BRISK, first_retry=hour, longest_retry=hour, progress_deadline=hour)
    async with world_of(tmp_path, timeouts, python=PYTHON) as world:
        yield world


@pytest.mark.parametrize("row", list(documented()), ids=lambda row: f"{row.format}: {row.files}")
async def test_of_real_files_comes_what_the_docs_say(
    row: Row, world: World, iris: Path, tmp_path: Path
) -> None:
    real, model_format, expected = REAL_MODELS[row.files], row.format, row.local
    assert real.format == model_format
    folder = tmp_path / "files"
    folder.mkdir()
    model = ModelPredictor(ModelFormat(model_format), str(real.made(folder, iris)))
    await world.deploy(InferenceServiceSpec(model, env=real.env))
    service = await world.until(State.READY, State.FAILED)
    failure = service.status.failure
    if not await has_package(PYTHON, f"mlserver-{model_format}"):
        assert failure
        assert failure.reason is FailureReason.NO_RUNTIME
        assert f"{PYTHON} -m pip install mlserver-{model_format}" in failure.remedy
    elif expected == "READY":
        assert failure is None
        assert await world.ask(service, f"/v2/models/{real.env.get(VARIABLE, NAME)}")
    else:
        reason, _, words = expected.partition(": ")
        assert failure
        assert failure.reason is FailureReason(reason)
        assert words.strip("`") in " ".join((failure.message, *failure.log_lines))
        assert not re.search("IsADirectoryError", failure.message)


def test_kserve_and_the_local_cluster_name_the_same_files() -> None:
    [mlserver] = [row for row in runtime_table.load() if row.name == "kserve-mlserver"]
    for model_format in mlserver.formats:
        for name in model_format.model_files:
            assert name in FAILURES[FailureReason.MODEL_LOAD].remedy


async def test_a_folders_own_implementation_answers(
    world: World, iris: Path, tmp_path: Path
) -> None:
    files = "a folder whose settings name an `implementation` in code beside them"
    folder = tmp_path / "files"
    folder.mkdir()
    model = ModelPredictor(ModelFormat("sklearn"), str(REAL_MODELS[files].made(folder, iris)))
    service = await world.ready(InferenceServiceSpec(model))
    flower = {"name": "x", "shape": [1], "datatype": "FP64", "data": [5.1]}
    url = f"{service.status.url}/v2/models/iris/infer"
    async with world.session.post(url, json={"inputs": [flower]}) as answer:
        assert (await answer.json())["outputs"][0]["data"] == [ANSWER]
