"""The client as its users get it: installed beside the stubs, on protobuf 6.33 and on 7."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from proto.generate import locked_python
from server.domain.rollout.status import State
from tests.api.requests import key
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served
from tests.stubs.test_distribution import files_of, make_dist
from tests.transcript import blocks

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def protobuf6() -> Path:
    """The Python of an environment with the oldest runtime that the stubs support."""
    return locked_python(ROOT / ".venv-protobuf6", ROOT / "tests/stubs/protobuf6.lock")


@pytest.fixture(scope="module")
def installed(protobuf6: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stubs and the client installed in it, and nothing else."""
    sources, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for package in ("generated", "client"):
        shutil.copytree(
            ROOT / package,
            sources / package,
            ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"),
        )
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [protobuf6, "-m", "pip", "--disable-pip-version-check", "install"]
    command = [*pip, *offline, "--target", site, sources / "generated", sources / "client"]
    subprocess.run(command, check=True)
    return site


@pytest.fixture(scope="module")
def distribution(installed: Path) -> Distribution:
    [found] = distributions(name="modelservice-client", path=[str(installed)])
    return found


@pytest.mark.parametrize("major", [6, 7])
def test_the_first_lines_of_the_document_run_on_protobuf(
    major: int, protobuf6: Path, installed: Path, served: Served, tmp_path: Path
) -> None:
    code = blocks("docs/clients.md", "In Python", "python")[0]
    script = tmp_path / "first.py"
    checks = "import google.protobuf, modelservice_client\n" + (
        f"assert google.protobuf.__version__.split('.')[0] == '{major}'\n"
        f"assert modelservice_client.__file__.startswith({str(installed)!r})\n"
    )
    name = f"protobuf-{major}"
    shown = code.replace("127.0.0.1:50051", served.address).replace('"iris"', f'"{name}"')
    script.write_text(checks + shown)
    done = subprocess.run(
        [protobuf6 if major == 6 else sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ready: \n"), done.stderr
    assert served.inside(served.memory.store.service, key(name)).status.state is State.READY


def test_the_distribution_has_every_module_and_its_types(installed: Path) -> None:
    package = "modelservice_client"
    assert files_of(installed / package) == files_of(ROOT / "client" / package)
    assert "py.typed" in files_of(installed / package)


def test_the_distribution_needs_the_stubs_only(distribution: Distribution) -> None:
    needs = [Requirement(need) for need in distribution.requires or []]
    [stubs] = [need for need in needs if not need.marker]
    assert (stubs.name, stubs.extras) == ("modelservice-stubs", {"errors"})
    assert str(stubs.specifier) == f"=={distribution.version}"
    [script] = distribution.entry_points
    assert (script.name, script.value) == ("modelctl", "modelservice_client.cli:main")


@pytest.mark.soak
def test_the_first_lines_of_the_document_run_beside_packages_that_pin_protobuf_6(
    served: Served, tmp_path: Path
) -> None:
    """With KServe's own package and others, in the releases of today: nothing of it is locked."""
    uv, venv = Path(sys.executable).with_name("uv"), tmp_path / "venv"
    built = make_dist(tmp_path / "dist").glob("*.whl")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    beside = ["kserve", "opentelemetry-exporter-otlp-proto-grpc", "google-cloud-storage"]
    install = [uv, "pip", "install", "--quiet", "--python", venv, *built, *beside]
    subprocess.run([*install, "protobuf<7"], check=True)
    code = blocks("docs/clients.md", "In Python", "python")[0]
    script = tmp_path / "first.py"
    imports = (
        "import google.cloud.storage, google.protobuf\n"
        "import opentelemetry.exporter.otlp.proto.grpc.trace_exporter\n"
        "from kserve.protocol.grpc import grpc_predict_v2_pb2\n"
        "assert google.protobuf.__version__.startswith('6.')\n"
    )
    shown = code.replace("127.0.0.1:50051", served.address).replace('"iris"', '"beside"')
    script.write_text(imports + shown)
    done = subprocess.run(
        [venv / "bin/python", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert (done.returncode, done.stdout) == (0, "ready: \n"), done.stderr
