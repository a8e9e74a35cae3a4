"""Whenever a server is killed around a registered deploy, its records say what the cluster says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.registry.killing import die_everywhere

IN_CI, IN_A_SOAK = 20, 200


@pytest.mark.timeout(900)
def test_killed_anywhere_on_the_embedded_database(tmp_path: Path) -> None:
    die_everywhere(tmp_path, "", IN_CI)


@pytest.mark.timeout(900)
def test_killed_anywhere_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    die_everywhere(tmp_path, postgresql_url, IN_CI)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_killed_200_times_on_the_embedded_database(tmp_path: Path) -> None:
    die_everywhere(tmp_path, "", IN_A_SOAK)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_killed_200_times_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    die_everywhere(tmp_path, postgresql_url, IN_A_SOAK)
