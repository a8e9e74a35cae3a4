"""Failpoints: each name has a place in the code, and one that is not armed does nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import server
from server import failpoints
from tests.failpoints import NAMES, armed

SOURCES = Path(server.__file__).parent


def test_each_failpoint_is_reached_somewhere_in_the_server() -> None:
    reached = {
        name
        for file in SOURCES.rglob("*.py")
        for name in re.findall(r"failpoints\.reached\(\"(.*?)\"\)", file.read_text())
    }
    assert reached == set(NAMES)


def test_a_failpoint_runs_its_action_for_as_long_as_it_is_armed() -> None:
    runs: list[str] = []
    failpoints.reached("before-write")
    with armed("before-write", lambda: runs.append("armed")):
        failpoints.reached("before-write")
        failpoints.reached("after-write")
    failpoints.reached("before-write")
    assert runs == ["armed"]


def test_a_test_cannot_arm_what_the_server_never_reaches() -> None:
    with pytest.raises(AssertionError, match="noon"), armed("noon", lambda: None):  # type: ignore[arg-type]
        pass
