"""The benchmarks that need the lab run, at sizes that say nothing of the server's speed."""

from __future__ import annotations

from pathlib import Path

from lab import Lab
from tests.benchmarks.deploying import measure_deploy
from tests.benchmarks.starting import measure_start


def test_deploy_is_measured_beside_a_raw_apply(lab: Lab, namespace: str, tmp_path: Path) -> None:
    compared = measure_deploy(print, lab, namespace=namespace, rounds=2, folder=tmp_path)
    assert len(compared.ours) == len(compared.bare) == 2


def test_a_start_is_measured_beside_raw_lists(lab: Lab, namespace: str, tmp_path: Path) -> None:
    synced, imported = measure_start(
        print, lab, namespace=namespace, services=5, rounds=1, folder=tmp_path
    )
    assert synced.ratio > 0
    assert imported.ratio > 0
