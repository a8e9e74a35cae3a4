"""The stubs as their users get them: installed as a distribution, on protobuf 6.33 and on 7."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from proto.generate import locked_python
from tests.patience import PATIENCE_SECONDS
from tests.serving import serving, settings

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
    site = tmp_path_factory.mktemp("site")
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [protobuf6, "-m", "pip", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, *offline, "--target", site, GENERATED], check=True)
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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make dist` filled."""
    return make_dist(tmp_path_factory.mktemp("dist"))


def make_dist(folder: Path) -> Path:
    # The environment that these tests run in is not set up anew, however old it is.
    command = ["make", "--old-file", ".venv/.from-lock", "dist", f"DIST={folder}"]
    # A make around this test tells its own options to makes that it starts.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_make_dist_makes_the_same_files_again(built: Path, tmp_path: Path) -> None:
    again = digests(make_dist(tmp_path))
    assert again == digests(built)
    names = ("modelservice_client-0.1.0", "modelservice_stubs-0.1.0")
    endings = ("-py3-none-any.whl", ".tar.gz")
    assert sorted(again) == [name + ending for name in names for ending in endings]


def test_the_wheels_install_into_an_empty_environment(built: Path, tmp_path: Path) -> None:
    uv, venv = Path(sys.executable).with_name("uv"), tmp_path / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    stubs, client = sorted(built.glob("*.whl"), reverse=True)
    # The versions that are locked, which are in uv's cache.
    options = ["--quiet", "--python", venv, "--constraints", ROOT / "requirements-dev.lock"]
    subprocess.run([uv, "pip", "install", *options, stubs, f"{client}[cli]"], check=True)
    with serving(settings()) as served:
        served.wait_until_synced()
        doctor = [venv / "bin/modelctl", "doctor", "--server", served.address]
        done = subprocess.run(doctor, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


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
