"""No attack that we know of does harm; a run alone, since it measures what is left for others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from . import ROOT
from .beside import OTHERS_CPU, SERVER_CPU

SOAK_SECONDS = 90
# `make attack` judges 250. Here it is a bound and no figure, ten times that: a burst of 4,000 calls
# alone takes as long as the machine is slow.
P99_MS = 2500
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
    not {SERVER_CPU, OTHERS_CPU} <= os.sched_getaffinity(0),
    reason="a server and its callers have a CPU each",
)
@pytest.mark.timeout(900)
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
    before, during, ratio, bare_before, bare_during, bare_ratio = map(float, figures)
    assert all(each > 0 for each in (before, during, bare_before, bare_during))
    # Rounded, they may be 0.
    assert all(each >= 0 for each in (ratio, bare_ratio))


@alone
@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_nor_does_any_for_a_minute_and_a_half() -> None:
    attack("--seconds", str(SOAK_SECONDS))
