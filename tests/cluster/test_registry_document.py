"""What docs/registry.md shows is what grpcurl prints, line by line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import SERVING_PYTHON
from demo.server_process import server_process
from demo.training import trained
from lab import Lab, debian
from tests.transcript import Step, played, transcript

from .asking import MODEL
from .fixtures import StartReplica

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "staging"}}


@pytest.fixture
def steps() -> list[Step]:
    return transcript("docs/registry.md", "Models by name")


@pytest.fixture
def path(lab: Lab) -> str:
    """The programs that the document's lines need, the lab's grpcurl among them."""
    if not shutil.which("jq"):
        debian.install(["jq"], print)
    return f"{lab.programs['grpcurl'].parent}:{os.environ['PATH']}"


@pytest.fixture
def staging(lab: Lab) -> Iterator[None]:
    """The namespace of the document's environment."""
    lab.apply(NAMESPACE)
    yield
    lab.delete(NAMESPACE)


@pytest.mark.skipif(
    not SERVING_PYTHON.exists(), reason="no .venv-serving to run model servers in: make serving"
)
def test_on_the_local_cluster(steps: list[Step], path: str, tmp_path: Path) -> None:
    model = tmp_path / "build" / "demo" / "iris.joblib"
    model.parent.mkdir(parents=True)
    trained(model)
    with server_process(tmp_path) as server:
        address = {"localhost:50051": server.address()}
        assert played(steps, address, path, tmp_path) == steps


@pytest.mark.usefixtures("staging")
def test_on_a_real_control_plane(
    steps: list[Step], path: str, replica: StartReplica, sqlite_url: str, tmp_path: Path
) -> None:
    server = replica({"MODELSERVICE_DATABASE_URL": sqlite_url})
    there = {
        "localhost:50051": server.address,
        "cp build/demo/iris.joblib build/demo/iris-2.joblib": "true",
        "$PWD/build/demo/iris": f"{MODEL}/iris",
    }
    assert played(steps, there, path, tmp_path) == steps
