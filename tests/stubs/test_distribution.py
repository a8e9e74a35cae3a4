"""The stubs as their users get them: installed as a distribution, on protobuf 6.33 and on 7."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from proto.generate import locked_python
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GENERATED = ROOT / "generated"


@pytest.fixture(scope="module")
def protobuf6() -> Path:
    """The Python of an environment with the oldest runtime that the stubs support."""
    return locked_python(ROOT / ".venv-protobuf6", HERE / "protobuf6.lock")


@pytest.fixture(scope="module")
def installed(protobuf6: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with modelservice-stubs installed in it, and nothing else."""
    source = tmp_path_factory.mktemp("source") / "generated"
    shutil.copytree(GENERATED, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    site = tmp_path_factory.mktemp("site")
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [protobuf6, "-m", "pip", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, *offline, "--target", site, source], check=True)
    return site


@pytest.fixture(scope="module")
def distribution(installed: Path) -> Distribution:
    [found] = distributions(path=[str(installed)])
    return found


@pytest.mark.parametrize("major", [6, 7])
def test_a_call_and_a_watch_work_on_protobuf(major: int, protobuf6: Path, installed: Path) -> None:
    python = protobuf6 if major == 6 else sys.executable

    seen = called_with(python, installed)

    version = tuple(int(part) for part in seen.pop("protobuf").split("."))
    assert version[0] == major
    assert major == 7 or version[:2] == (6, 33)
    assert Path(seen.pop("stubs")).is_relative_to(installed)
    assert seen == {
        "deployed": True,
        "minimum": True,
        "refusal": "SERVICE_NOT_FOUND",
        "watched": ["iris"],
    }


def test_the_distribution_has_every_stub_and_type_stub(installed: Path) -> None:
    assert files_of(installed / "modelservice") == files_of(GENERATED / "modelservice")
    assert "py.typed" in files_of(installed / "modelservice")


def test_the_distribution_needs_grpcio_and_protobuf_only(distribution: Distribution) -> None:
    needs = [Requirement(need) for need in distribution.requires or []]

    assert distribution.name == "modelservice-stubs"
    assert {need.name for need in needs if not need.marker} == {"grpcio", "protobuf"}
    assert [need.name for need in needs if need.marker] == ["googleapis-common-protos"]


def called_with(python: Path | str, site: Path) -> dict:
    """Run calling.py with warnings as errors, since users run their tests so."""
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [python, HERE / "calling.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files_of(package: Path) -> set[str]:
    files = (path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(package)) for path in files}
