"""No test of modelctl sees the configuration and the variables of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

VARIABLES = (
    *("MODELCTL_CONFIG", "MODELSERVICE_SERVER", "MODELSERVICE_TOKEN_FILE"),
    *("GITHUB_ACTIONS", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITLAB_CI", "CI_JOB_ID"),
    *("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
)


@pytest.fixture(autouse=True)
def clean_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
