"""`make image`: which of docker, podman and buildah it takes, and what it asks of it.

The three are played, since no machine has them all; tests/node builds the image for real.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEAD_DAEMON = '[ "$1" != info ] || exit 1'
NO_BUILDX = '[ "$1" != buildx ] || exit 1'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH with what the script itself needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "env"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def play(programs: Path, name: str, first: str = "") -> None:
    """A program of this name that prints how it is called."""
    program = programs / name
    program.write_text(f'#!/usr/bin/env bash\n{first}\necho {name} "$@"\n')
    program.chmod(0o755)


def image(programs: Path, *name: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci/image", *name],
        env={"PATH": str(programs)} | env,
        capture_output=True,
        text=True,
    )


def calls(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("image:")]


def test_docker_is_taken_first(programs: Path) -> None:
    for name in ("docker", "podman", "buildah"):
        play(programs, name)
    assert calls(image(programs, "us:1")) == ["docker build --tag us:1 ."]


@pytest.mark.parametrize("lack", [DEAD_DAEMON, NO_BUILDX], ids=["no daemon", "no buildx"])
def test_a_docker_that_cannot_build_is_passed_over(programs: Path, lack: str) -> None:
    play(programs, "docker", lack)
    play(programs, "buildah")
    assert calls(image(programs, "us:1")) == ["buildah build --tag us:1 ."]


def test_podman_goes_before_buildah(programs: Path) -> None:
    play(programs, "buildah")
    play(programs, "podman")
    assert calls(image(programs, "us:1")) == ["podman build --tag us:1 ."]


def test_it_builds_on_another_base_with_other_certificates_and_pushes(programs: Path) -> None:
    play(programs, "podman")
    done = image(programs, "us:1", BASE="python:3.12-slim", SSL_CERT_FILE="/ca.pem", PUSH="1")
    assert calls(done) == [
        "podman build --tag us:1 --build-arg BASE=python:3.12-slim --secret id=ca,src=/ca.pem .",
        "podman push us:1",
    ]


def test_a_target_is_another_image(programs: Path) -> None:
    play(programs, "podman")
    done = image(programs, "modelctl:1", TARGET="cli")
    assert calls(done) == ["podman build --tag modelctl:1 --target cli ."]


@pytest.mark.parametrize("daemon", ["none", "dead"])
def test_with_nothing_to_build_with_it_says_what_is_needed(programs: Path, daemon: str) -> None:
    if daemon == "dead":
        play(programs, "docker", DEAD_DAEMON)
    done = image(programs, "us:1")
    assert done.returncode == 1
    assert "docker (its daemon running, with buildx), podman or buildah" in done.stderr


def test_it_asks_for_a_name() -> None:
    done = subprocess.run(["make", "image", "IMAGE="], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "IMAGE=name:tag" in done.stderr


def test_a_failed_build_is_not_pushed(programs: Path) -> None:
    play(programs, "podman", '[ "$1" != build ] || exit 3')
    done = image(programs, "us:1", PUSH="1")
    assert done.returncode == 3
    assert "push" not in done.stdout
