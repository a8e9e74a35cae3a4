"""Servers that die with the embedded database leave records that say what the cluster says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.registry.killing import IN_A_SOAK, IN_CI, die_everywhere


@pytest.mark.timeout(900)
def test_killed_anywhere(tmp_path: Path) -> None:
    die_everywhere(tmp_path, "", IN_CI)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_killed_200_times(tmp_path: Path) -> None:
    die_everywhere(tmp_path, "", IN_A_SOAK)
