"""What README.md, docs/api.md and docs/operations.md show of a shell is run as it is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import SERVING_PYTHON
from demo.server_process import server_process
from demo.training import trained
from lab import Lab, debian, wait_until
from tests.api.test_tls_document import make_certificate
from tests.patience import PATIENCE_SECONDS
from tests.transcript import ROOT, Step, played, transcript

from .serving import Server, install

SHOWN_URL = "127.0.0.1:22466"


@pytest.fixture
def path(built_grpcurl: Path) -> str:
    """The programs that the documents' lines need."""
    if not shutil.which("jq"):
        debian.install(["jq"], print)
    return f"{built_grpcurl.parent}:{os.environ['PATH']}"


@pytest.mark.skipif(
    not SERVING_PYTHON.exists(), reason="no .venv-serving to run model servers in: make serving"
)
def test_the_first_calls_of_the_readme(path: str, tmp_path: Path) -> None:
    deploy, watch, predict = transcript("README.md", "Call it yourself")
    model = tmp_path / "build" / "demo" / "iris.joblib"
    model.parent.mkdir(parents=True)
    trained(model)
    with server_process(tmp_path) as server:
        address = {"localhost:50051": server.address()}
        deployed, watched = played([deploy, watch], address, path, tmp_path)
        action, rollout_id = json.loads(deployed.shown)
        assert action == json.loads(deploy.shown)[0]
        assert rollout_id
        url = watched.last.rpartition("//")[2]
        # It may pass other states on its way.
        assert watched.last == watch.last.replace(SHOWN_URL, url)
        assert played([predict], {SHOWN_URL: url}, path, tmp_path) == [predict]


@pytest.fixture
def in_default(lab: Lab) -> Iterator[None]:
    """The services that the document makes in the namespace `default` are gone afterwards."""
    yield
    services = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
    for service in lab.get(services)["items"]:
        lab.delete(service)
    wait_until(lambda: not lab.get(services)["items"], "they are gone")


@pytest.mark.usefixtures("in_default")
def test_the_calls_of_the_api_document(server: Server, path: str, tmp_path: Path) -> None:
    rollout_id = "..."
    for step in transcript("docs/api.md", "With grpcurl"):
        command = step.command.replace("localhost:50051", server.address)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.replace('"..."', f'"{rollout_id}"')],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            cwd=tmp_path,
            env={"PATH": path},
        )
        assert done.returncode == 0, (command, done.stderr)
        if "/Deploy" in command:
            rollout_id = json.loads(done.stdout)["rollout_id"]
    assert rollout_id != "..."


def test_the_installation_of_the_operations_document(lab: Lab, tmp_path: Path) -> None:
    """The API server takes each command, in a dry run where it would change the shared lab."""
    install(lab)
    make_certificate(tmp_path)
    steps = [
        step
        for heading in ("Install it on a cluster", "With a registry")
        for step in transcript("docs/operations.md", heading)
        if step.command.startswith("kubectl ")
    ]
    assert len(steps) == 6
    for step in steps:
        done = dry_run(lab, step, tmp_path)
        there = re.search(r'namespaces "[\w-]+" already exists', done.stderr)
        assert done.returncode == 0 or there, (step.command, done.stderr)


def dry_run(lab: Lab, step: Step, files: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of kubectl on the lab, without a lasting effect."""
    command = re.sub(r"=(?=tls\.)", f"={files}/", step.command)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{command} --dry-run=server"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=ROOT,
        env={
            "PATH": f"{lab.programs['kubectl'].parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(lab.kubeconfig),
        },
    )
