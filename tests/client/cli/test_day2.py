"""What docs/day2.md shows is run as it is shown, on the local cluster."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelservice.v1.inference_service_pb2 import InferenceServiceSpec, ModelFormat, ModelPredictor
from modelservice.v1.model_service_pb2 import DeployRequest

from tests.adapters.local.load import load
from tests.adapters.local.server_process import Server, server
from tests.transcript import Step, blocks, transcript

from .running import modelctl
from .test_sessions import shape

pytestmark = pytest.mark.processes

GOOD, BAD = (
    f"modelctl deploy iris --format sklearn --storage-uri gs://models/iris/{n}" for n in (1, 2)
)
# What the test server does with each of the document's models.
MODELS: dict[str, dict[str, Any]] = {"1": {"load_seconds": 0.2}, "2": {"exit": 3}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("server")) as running:
        yield running


class Documented:
    """Runs the commands of the document in their own namespace, with models of this machine."""

    def __init__(self, address: str, namespace: str, folder: Path) -> None:
        self.address = address
        self.namespace = namespace
        self.folder = folder
        for name, orders in MODELS.items():
            (folder / name).write_text(json.dumps(orders))

    def run(self, command: str, code: int = 0) -> Any:
        """Run a command to its end, which is this code."""
        command = command.replace("--format sklearn", "--format test")
        command = command.replace("gs://models/iris", str(self.folder))
        command = command.replace("service.yaml", str(self.folder / "service.yaml"))
        program, *words = command.split()
        assert program == "modelctl"
        run = modelctl(*words, "-n", self.namespace, MODELSERVICE_SERVER=self.address)
        assert run.exit_code == code, (command, run.stderr)
        return run

    def play(self, step: Step, code: int = 0) -> None:
        """Run a step, which prints what is shown."""
        printed = self.run(step.command, code).stdout
        printed = printed.replace(str(self.folder), "gs://models/iris")
        printed = printed.replace(f"{self.namespace}/", "models/")
        assert shape(printed) == shape(step.shown), step.command

    def spec(self) -> dict[str, Any]:
        """The present spec."""
        found: dict[str, Any] = json.loads(self.run("modelctl get iris -o json").stdout)["spec"]
        return found


@pytest.fixture
def documented(running: Server, tmp_path: Path, name: str) -> Documented:
    return Documented(running.running.address, name, tmp_path)


def test_the_history_and_the_rollback_of_the_document(documented: Documented) -> None:
    steps = transcript("docs/day2.md", "Go back")
    assert [step.command for step in steps[:2]] == [GOOD, BAD]
    for step in steps:
        documented.play(step, code=73 if step.command == BAD else 0)
    assert "UNCHANGED" in documented.run("modelctl rollback iris").stderr
    assert documented.run("modelctl history iris -o name").stdout == "3\n2\n1\n"


async def test_a_failed_deploy_is_rolled_back_and_not_one_request_fails(
    documented: Documented,
) -> None:
    [step] = transcript("docs/day2.md", "Go back by itself")
    assert step.command == f"{BAD} --rollback-on-failure"
    good = await asyncio.to_thread(documented.run, GOOD)
    [url] = re.findall(r"http://\S+", good.stdout)
    before = documented.spec()
    async with load(url) as under:
        await under.goes_on()
        run = await asyncio.to_thread(documented.run, step.command, 81)
        await under.goes_on()
    assert under.failed == []
    assert documented.spec() == before
    lines = [re.sub(" +", " ", line) for line in run.stderr.splitlines()]
    assert f"error: {documented.namespace}/iris failed: MODEL_LOAD" in lines
    assert "rollback done: revision 1 serves again" in lines
    assert any(line.startswith("remedy check that the model's files") for line in lines)


def test_the_program_of_the_document(documented: Documented) -> None:
    [code] = blocks("docs/day2.md", "Go back by itself", "python")
    program: dict[str, Any] = {}
    exec(code, program)

    def outcome(service: str, model: str) -> str:
        uri = str(documented.folder / model)
        predictor = ModelPredictor(format=ModelFormat(name="test"), storage_uri=uri)
        spec = InferenceServiceSpec(model=predictor)
        request = DeployRequest(namespace=documented.namespace, name=service, spec=spec)
        return str(program["deploy"](documented.address, request))

    assert outcome("iris", "1").startswith("http://")
    assert outcome("iris", "2").endswith("; back at revision 1")
    assert "; not rolled back: FAILED_PRECONDITION NO_READY_REVISION: " in outcome("rose", "2")


def test_the_strategy_and_the_patience_of_the_document(documented: Documented) -> None:
    predictor = {"format": {"name": "test"}, "storage_uri": str(documented.folder / "1")}
    request = {"name": "iris", "spec": {"model": predictor}}
    (documented.folder / "service.yaml").write_text(json.dumps(request))
    [recreate] = transcript("docs/day2.md", "The node is full")
    documented.play(recreate)
    assert documented.spec()["rollout_strategy"] == {"type": "TYPE_RECREATE"}
    [slow] = transcript("docs/day2.md", "The model is slow")
    documented.play(slow)
    assert documented.spec()["ready_timeout"] == "900s"


def test_the_stop_and_the_start_of_the_document(documented: Documented) -> None:
    documented.run(GOOD)
    for step in transcript("docs/day2.md", "Stop and start"):
        documented.play(step)
