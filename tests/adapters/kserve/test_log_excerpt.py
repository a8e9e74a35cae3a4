"""The excerpt of a log: the line that names the cause is always kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.objects import name_of
from server.adapters.kserve.status.observed_objects import LogExcerpt, ObservedObjects
from server.adapters.kserve.status.pods.failure_log import LogRequest, excerpt
from server.domain.rollout.log_excerpt import (
    MOST_BYTES,
    MOST_LINES,
    excerpt_of,
    plain_lines,
    reports_failed_load,
)
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.shown import (
    ended,
    serving_model,
    starting,
    verdict,
    waiting,
    with_container,
)

SECOND = timedelta(seconds=1)
# MLServer 1.7.1 with a model file that was cut short: it loads, fails, shuts down and exits with 0.
CORRUPT_MODEL = Path(__file__).with_name("logs") / "mlserver_corrupt_model.log"
# MLServer 1.7.1 with XGBoost 3.2 and a model of XGBoost's old binary format.
LEGACY_MODEL = CORRUPT_MODEL.with_name("mlserver_legacy_xgboost.log")
CAUSE = "builtins.ValueError: EOF: reading array data, expected 1920 bytes got 1665"


CANCELLED = """Traceback (most recent call last):
  File "/opt/mlserver/lib/python3.11/site-packages/starlette/routing.py", line 699, in lifespan
    await receive()
asyncio.exceptions.CancelledError
"""


def read_of(*lines: str) -> LogExcerpt:
    """What is kept of a log with these lines."""
    wanted = LogRequest("iris-1", "models", "kserve-container", previous=False, restart_count=0)
    return excerpt("\n".join(lines), wanted)


@pytest.mark.parametrize(
    "more", ["", "INFO:     Waiting for background tasks\n" * 300, CANCELLED], ids=len
)
def test_the_cause_of_a_corrupt_model_is_shown_whatever_the_shutdown_logs(more: str) -> None:
    text = CORRUPT_MODEL.read_text() + more
    shown = excerpt_of(plain_lines(text))
    assert any(line.endswith(CAUSE) for line in shown)
    assert any("failed to load during startup" in line for line in shown)
    assert shown[-1] == text.splitlines()[-1]
    assert reports_failed_load(shown)


def test_all_lines_of_a_cause_before_a_long_stack_are_shown() -> None:
    shown = excerpt_of(plain_lines(LEGACY_MODEL.read_text()))
    [at] = [n for n, line in enumerate(shown) if "Failed to load model: `/mnt/models" in line]
    assert shown[at + 1 : at + 4] == (
        "The binary format has been deprecated in 1.6 and removed in 3.1, use UBJ or JSON",
        "instead. You can port the binary model to UBJ and JSON by re-saving it with XGBoost",
        "3.0. See:",
    )
    assert any("failed to load during startup" in line for line in shown)
    assert reports_failed_load(shown)


def test_what_follows_a_cause_goes_before_a_long_line_at_the_end() -> None:
    after = ["binary format removed, re-save it", *(f"frame {n}" for n in range(99)), "x" * 9999]
    shown = excerpt_of(["ValueError: no model", *after])
    assert shown[:3] == ("ValueError: no model", after[0], after[1])


def test_the_innermost_frame_of_a_traceback_is_shown_without_marks() -> None:
    text = """Traceback (most recent call last):
  File "server.py", line 1, in <module>
    main()
  File "server.py", line 9, in main
    open("/mnt/models/model.bin")
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
FileNotFoundError: [Errno 2] No such file or directory: '/mnt/models/model.bin'
"""
    assert excerpt_of(plain_lines(text)) == (
        "Traceback (most recent call last):",
        '  File "server.py", line 9, in main',
        '    open("/mnt/models/model.bin")',
        "FileNotFoundError: [Errno 2] No such file or directory: '/mnt/models/model.bin'",
    )


def test_an_error_line_is_shown_if_nothing_was_raised() -> None:
    lines = ["starting", "FATAL the licence has expired", *(f"closing {n}" for n in range(30))]
    assert excerpt_of(lines) == (*lines[:10], *lines[-2:])


def test_where_a_model_was_not_loaded_long_before_the_end_that_line_is_kept() -> None:
    lines = ["Couldn't load model 'iris'", *(f"line {n}" for n in range(300)), "ERROR giving up"]
    shown = excerpt_of(lines)
    assert len(shown) == MOST_LINES
    assert (shown[0], shown[-2:]) == (lines[0], tuple(lines[-2:]))


def test_the_kubelets_message_about_a_missing_log_is_no_log() -> None:
    assert plain_lines("unable to retrieve container logs for containerd://0123abc") == []


@pytest.mark.parametrize(
    "line",
    [
        "INFO - Couldn't load model 'iris'. Model will be removed from registry.",
        "RuntimeError: Failed to load the model /mnt/models",
        "failed to load 'iris' version 1: Internal: model file not found",
        "Load model failed: iris, error: Worker died.",
        "model iris could not be loaded",
        "ERROR loading model iris failed: no such file",
        "Loading model 'iris' failed with EOFError",
        "model.load() failed (timeout)",
    ],
)
def test_the_messages_of_model_servers_about_a_failed_load_are_recognised(line: str) -> None:
    assert reports_failed_load([line])


@pytest.mark.parametrize(
    "line",
    [
        "INFO - Loaded model 'iris' successfully.",
        "Loading the model from /mnt/models",
        "ERROR could not bind to port 8080",
        "model server failed to load its configuration",
        "INFO model loading finished, 0 failed",
        "Loading model weights took 3s; failed requests: 0",
        "WARNING failed to load model cache, downloading model",
        "requests: 0 failed; loading model iris",
        "no error while loading the model",
    ],
)
def test_other_messages_are_not_a_failed_load(line: str) -> None:
    assert not reports_failed_load([line])


@pytest.mark.parametrize("predictor", [starting, serving_model])
def test_a_failed_load_in_the_log_makes_the_reason_model_load(
    predictor: Callable[[], tuple[ObservedObjects, datetime]],
) -> None:
    observed, now = predictor()
    crashing = with_container(
        observed,
        state=waiting("CrashLoopBackOff"),
        lastState=ended(0, now, reason="Completed"),
        restartCount=1,
    )
    source = (name_of(crashing.pods[0]), "kserve-container")
    for lines, reason in (
        (("INFO - Couldn't load model 'iris'.", "bye"), FailureReason.MODEL_LOAD),
        (("Loading the model", "port 8080 is taken"), FailureReason.CRASH_LOOP),
    ):
        decision = verdict(replace(crashing, logs={source: read_of(*lines)}), now)
        assert decision.state is State.FAILED
        assert decision.failure
        assert decision.failure.reason is reason


def test_a_server_that_stays_up_without_its_model_is_detected_by_its_log() -> None:
    observed, now = starting()
    source = (name_of(observed.pods[0]), "kserve-container")
    said = replace(observed, logs={source: read_of("error: model iris failed to load")})
    decision = verdict(said, now + 61 * SECOND)
    assert decision.state is State.PROGRESSING
    assert decision.failure
    assert decision.failure.reason is FailureReason.MODEL_LOAD


def test_the_beginning_of_an_endless_line_is_shown() -> None:
    assert excerpt_of(["é" * MOST_BYTES]) == ("é" * (MOST_BYTES // 2),)


@given(st.lists(st.text(max_size=800), max_size=40))
def test_an_excerpt_is_bounded_and_ends_with_the_last_line(lines: list[str]) -> None:
    text = "\n".join(lines)
    shown = excerpt_of(plain_lines(text))
    assert len(shown) <= MOST_LINES
    assert sum(len(line.encode()) for line in shown) <= MOST_BYTES
    told_lines = [line.rstrip() for line in text.splitlines() if line.rstrip()]
    if told_lines and not {"\x1b", "\0"} & set(text):
        assert shown[-1] == told_lines[-1]
