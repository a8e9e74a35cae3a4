"""No attack that we know of does harm; a run alone, since it measures what is left for others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from . import ROOT

SOAK_SECONDS = 90
# `make attack` judges 250; a machine that tests share gets four times that.
P99_MS = 1000
alone = pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ, reason="other tests are under way: make attack"
)


def attack(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks", *arguments], cwd=ROOT, stderr=subprocess.PIPE
    )
    assert done.returncode == 0, done.stderr.decode()


@alone
@pytest.mark.timeout(900)
def test_no_attack_does_harm() -> None:
    attack("--p99", str(P99_MS))


@alone
@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) == 1, reason="a server and its callers have a CPU each"
)
def test_a_flood_is_measured_beside_a_bare_server() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.beside", "--seconds", "0.5", "--only", "tokens"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *_, row = done.stdout.splitlines()
    name, *figures = row.rsplit(maxsplit=6)
    assert name == "tokens of no caller, each another"
    assert all(float(each) > 0 for each in figures)


@alone
@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_nor_does_any_for_a_minute_and_a_half() -> None:
    attack("--seconds", str(SOAK_SECONDS))
