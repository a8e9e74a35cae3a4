"""What others wrote commands no terminal, wherever it is shown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from server.api.errors import cut
from server.api.services import status_message
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Condition, FailureReason, InferenceServiceStatus, State
from tests.alone import ROOT, clean_environment

from .test_settings import server

SHOWN = "a red link"
WRITTEN = [
    "a \x1b[31mred\x1b[0m link",
    "a \x1b]0;title\x07red link",
    "a red \x1b]8;;http://elsewhere\x1b\\link\x1b]8;;\x1b\\",
    "a \x1bPq#0\x1b\\red link",
    "a \x1bcred \x9blink",
    "a\x08\x7f red\x05 link",
]

PROGRAM = """
import sys, structlog
from server import logs
from server.settings import Log
logs.configure(Log(format=sys.argv[1]))
structlog.get_logger().info(sys.argv[2], why=sys.argv[2])
"""


@pytest.mark.parametrize("written", WRITTEN)
def test_messages_of_a_status_and_of_an_error_have_no_control_sequences(written: str) -> None:
    failure = failure_of(FailureReason.CRASH_LOOP, written, remedy=written)
    condition = Condition("Ready", "False", written, written)
    status = status_message(
        InferenceServiceStatus(State.FAILED, written, failure=failure, conditions=(condition,))
    )
    assert status.message == SHOWN
    assert (status.failure.message, status.failure.remedy) == (SHOWN, SHOWN)
    assert (status.conditions[0].reason, status.conditions[0].message) == (SHOWN, SHOWN)
    assert cut(written, 512) == SHOWN


@pytest.mark.parametrize("chosen", ["console", "json"])
def test_a_log_line_has_no_control_sequences(chosen: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, chosen, " ".join(WRITTEN[:4])],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=clean_environment(),
    )
    assert "link" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_the_line_that_ends_a_start_has_no_control_sequences() -> None:
    said = server(KSERVE_ENABLED="1", KUBECONFIG="/no/\x1b]0;title\x07where").stderr
    assert "/no/where" in said
    assert "\x1b" not in said
