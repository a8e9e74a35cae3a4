"""The benchmarks that need the lab run, at sizes that say nothing of the server's speed."""

from __future__ import annotations

from pathlib import Path

from lab import Lab
from tests.benchmarks.changing import measure_change
from tests.benchmarks.deploying import measure_deploy
from tests.benchmarks.starting import measure_start


def test_deploy_is_measured_beside_a_raw_apply(lab: Lab, namespace: str, tmp_path: Path) -> None:
    compared = measure_deploy(print, lab, namespace=namespace, rounds=2, folder=tmp_path)
    assert len(compared.ours) == len(compared.bare) == 2


def test_a_change_is_measured_beside_a_raw_watch(lab: Lab, namespace: str, tmp_path: Path) -> None:
    compared = measure_change(print, lab, namespace=namespace, rounds=2, folder=tmp_path)
    assert len(compared.ours) == len(compared.bare) == 2
    assert compared.ratio > 0


def test_a_start_is_measured_beside_raw_lists(lab: Lab, namespace: str, tmp_path: Path) -> None:
    measured = measure_start(
        print, lab, namespace=namespace, sizes=[3, 5], rounds=1, folder=tmp_path
    )
    assert len(measured) == 6
    assert all(comparison.bare[0] > 0 for comparison in measured)
