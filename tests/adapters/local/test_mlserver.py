"""The local cluster with MLServer, as its users have it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from subprocess import run
from typing import Any

import psutil
import pytest

from demo import SERVING_PYTHON
from demo.training import broken, trained
from server.adapters.local.runtimes import runtime_table
from server.domain.rollout.status import FailureReason, State
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
)
from tests.adapters.local import serving
from tests.adapters.local.load import load
from tests.adapters.local.serving import BRISK
from tests.adapters.local.test_failing import RiggedPorts, stranger
from tests.adapters.local.world import IRIS, World, eventually, servers_of, world_of

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not SERVING_PYTHON.exists(), reason="no .venv-serving: make serving"),
    pytest.mark.timeout(600),
]
# A machine that does much else besides is given ten times as long for a start.
PATIENT = replace(BRISK, progress_deadline=timedelta(seconds=300))
FLOWER = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}

# Pickles that do something when they are loaded.
_PICKLED = """
import pickle, sys
class Act:
    def __reduce__(self):
        return exec, (sys.argv[2],)
pickle.dump(Act(), open(sys.argv[1], "wb"))
"""
_RELUCTANT = """
from mlserver import MLModel
class Reluctant(MLModel):
    async def load(self):
        print("no weights for this machine", flush=True)
        return False
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    trained(folder / "iris.joblib")
    broken(folder / "corrupt.joblib", folder / "iris.joblib")
    for name, act in {
        "exit-0": "import os; print('leaving', flush=True); os._exit(0)",
        "exit-3": "import sys; sys.exit(3)",
        "hang": "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)",
    }.items():
        file = folder / f"{name}.joblib"
        run([SERVING_PYTHON, "-c", _PICKLED, file, act], check=True)
    return folder


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    timeouts = replace(
        PATIENT,
        first_retry=timedelta(seconds=60),
        longest_retry=timedelta(seconds=60),
        stop=timedelta(seconds=5),
    )
    async with world_of(tmp_path, timeouts, python=SERVING_PYTHON) as world:
        yield world


def sklearn(file: Path, **fields: Any) -> InferenceServiceSpec:
    return InferenceServiceSpec(ModelPredictor(ModelFormat("sklearn"), str(file)), **fields)


async def predicted(world: World, service: InferenceService) -> list[object]:
    url = f"{service.status.url}/v2/models/{service.key.name}/infer"
    async with world.session.post(url, json={"inputs": [FLOWER]}) as response:
        assert response.status == 200, await response.text()
        answer: list[object] = (await response.json())["outputs"][0]["data"]
        return answer


async def test_a_stored_model_is_served_and_rolled_out_without_a_lost_request(
    world: World, models: Path
) -> None:
    service = await world.ready(sklearn(models / "iris.joblib"))
    assert service.status.serving_runtime == "kserve-mlserver"
    assert await predicted(world, service) == ["setosa"]
    body = json.dumps({"inputs": [FLOWER]}).encode()
    async with load(service.status.url, callers=2, body=body) as under:
        for number in range(2):
            env = {"ROLLOUT": str(number)}
            service = await world.ready(sklearn(models / "iris.joblib", env=env))
            await under.goes_on()
    assert under.failed == []
    await eventually("one server", lambda: len(servers_of(world)) == 1)


async def test_a_model_that_is_unloaded_is_taken_out_and_comes_back(
    world: World, models: Path
) -> None:
    service = await world.ready(sklearn(models / "iris.joblib"))
    [server] = servers_of(world)
    settings = json.loads((Path(server.cwd()) / "settings.json").read_text())
    model = "v2/repository/models/iris"
    async with world.session.post(f"{service.status.url}/{model}/unload") as response:
        assert response.status == 200, await response.text()
    out = await world.when("taken out", lambda s: not s.status.serving)
    assert out.status.failure
    assert out.status.failure.reason is FailureReason.NOT_ANSWERING
    origin = f"http://127.0.0.1:{settings['http_port']}"
    async with world.session.post(f"{origin}/{model}/load") as response:
        assert response.status == 200, await response.text()
    assert await predicted(world, await world.until(State.READY)) == ["setosa"]
    assert servers_of(world) == [server]


async def test_a_failed_load_is_reported_with_the_line_of_its_cause(
    world: World, models: Path
) -> None:
    await asyncio.gather(
        _fails(world, models, "corrupt", exit_code=0, line="Error: "),
        _fails(world, models, "exit-0", exit_code=0, line="leaving"),
        _fails(world, models, "exit-3", exit_code=3, line="SystemExit: 3"),
    )


async def _fails(world: World, models: Path, name: str, *, exit_code: int, line: str) -> None:
    key = IRIS._replace(name=name)
    await world.deploy(sklearn(models / f"{name}.joblib"), key)
    failed = await world.until(State.FAILED, key=key)
    failure = failed.status.failure
    assert failure
    assert failure.reason is FailureReason.MODEL_LOAD
    assert failure.exit_code == exit_code
    assert any(line in shown for shown in failure.log_lines), failure.log_lines
    assert not any("shutdown complete" in shown.lower() for shown in failure.log_lines)


async def test_a_load_that_hangs_and_is_deaf_to_signals_ends_at_the_deadline(
    tmp_path: Path, models: Path
) -> None:
    timeouts = replace(BRISK, progress_deadline=timedelta(seconds=15), stop=timedelta(seconds=1))
    async with world_of(tmp_path, timeouts, python=SERVING_PYTHON) as world:
        await world.deploy(sklearn(models / "hang.joblib"))
        failed = await world.until(State.FAILED)
        assert failed.status.failure
        assert failed.status.failure.reason is FailureReason.PROGRESS_DEADLINE
        await world.gone()
        assert servers_of(world) == []


async def test_a_runtime_of_their_own_whose_load_answers_false_is_a_failed_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "RUNTIME", _mlserver_row("reluctant", "reluctant.Reluctant"))
    (tmp_path / "reluctant.py").write_text(_RELUCTANT)
    env = {"PYTHONPATH": str(tmp_path)}
    async with world_of(tmp_path, PATIENT, python=SERVING_PYTHON) as world:
        spec = InferenceServiceSpec(ModelPredictor(ModelFormat("reluctant")), env=env)
        await world.deploy(spec)
        failure = (await world.until(State.FAILED)).status.failure
        assert failure
        assert failure.reason is FailureReason.MODEL_LOAD
        assert failure.exit_code is None
        assert any("no weights for this machine" in line for line in failure.log_lines)


def _mlserver_row(name: str, implementation: str) -> str:
    """MLServer with a format more, as an operator would add it; a template as RUNTIME is one."""
    row, _, _ = (
        Path(runtime_table.__file__)
        .with_name("runtimes.toml")
        .read_text()
        .partition("[[runtime.formats]]")
    )
    row = row.replace("kserve-mlserver", "own-mlserver").replace("{", "{{").replace("}", "}}")
    return f'{row}[[runtime.formats]]\nname = "{name}"\nimplementation = "{implementation}"\n'


async def test_what_is_missing_is_named(world: World, models: Path) -> None:
    await world.deploy(sklearn(models / "absent.joblib"))
    missing = (await world.until(State.FAILED)).status.failure
    assert missing
    assert missing.reason is FailureReason.STORAGE_DOWNLOAD
    assert "absent.joblib" in missing.message
    model = ModelPredictor(ModelFormat("huggingface"), str(models / "iris.joblib"))
    await world.deploy(InferenceServiceSpec(model))
    lacking = (await world.until(State.FAILED, generation=2)).status.failure
    assert lacking
    assert lacking.reason is FailureReason.NO_RUNTIME
    assert f"{SERVING_PYTHON} -m pip install mlserver-huggingface" in lacking.remedy


async def test_a_port_that_a_stranger_has_is_given_up_for_another(
    tmp_path: Path, models: Path
) -> None:
    with stranger() as (taken, asked):
        ports = RiggedPorts({2: taken})
        async with world_of(tmp_path, PATIENT, ports=ports, python=SERVING_PYTHON) as world:
            service = await world.ready(sklearn(models / "iris.joblib"))
            assert await predicted(world, service) == ["setosa"]
            assert ports.handed_out == 3, "the address, the port that was taken, and another"
            told = world.told.history(IRIS)
            assert not [s for s in told if isinstance(s, InferenceService) and s.status.failure]
    assert set(asked) <= {"/v2"}


async def test_a_server_that_is_killed_comes_back_once_and_is_a_crash_loop_after_that(
    tmp_path: Path, models: Path
) -> None:
    timeouts = replace(PATIENT, stable=timedelta(minutes=10))
    async with world_of(tmp_path, timeouts, python=SERVING_PYTHON) as world:
        service = await world.ready(sklearn(models / "iris.joblib"))
        _kill_the_server(world)
        await world.when("its death", lambda s: not s.status.serving)
        back = await world.when("its return", lambda s: s.status.serving)
        assert back.status.failure
        assert back.status.failure.reason is FailureReason.CRASH_LOOP
        assert await predicted(world, service) == ["setosa"]
        _kill_the_server(world)
        failed = await world.until(State.FAILED)
        assert failed.status.failure
        assert failed.status.failure.exit_code == 137


def _kill_the_server(world: World) -> None:
    [server] = servers_of(world)
    server.kill()


async def test_two_services_share_no_port_of_any_kind(world: World, models: Path) -> None:
    for name in ("one", "two"):
        await world.ready(sklearn(models / "iris.joblib"), IRIS._replace(name=name))
    one, two = ({c.laddr.port for c in _listening(p)} for p in servers_of(world))
    assert len(one) == len(two) == 2, "HTTP and gRPC"
    assert not one & two


def _listening(process: psutil.Process) -> list[Any]:
    return [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
