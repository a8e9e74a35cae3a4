"""Servers that die on PostgreSQL leave records that say what the cluster says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.registry.killing import IN_A_SOAK, IN_CI, die_everywhere


@pytest.mark.timeout(900)
def test_killed_anywhere(tmp_path: Path, postgresql_url: str) -> None:
    die_everywhere(tmp_path, postgresql_url, IN_CI)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_killed_200_times(tmp_path: Path, postgresql_url: str) -> None:
    die_everywhere(tmp_path, postgresql_url, IN_A_SOAK)
