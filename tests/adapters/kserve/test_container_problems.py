"""Containers that exit or do not become ready, and when they count as stable again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from server.adapters.kserve.objects import parse_time
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.shown import (
    ended,
    facts,
    running,
    serving,
    serving_model,
    stamp,
    starting,
    verdict,
    waiting,
    warning,
    with_condition,
    with_container,
    with_deployment,
    with_deployment_condition,
    with_pod_condition,
    with_pods,
    with_service,
)
from tests.adapters.kserve.test_log_excerpt import LEGACY_MODEL

SECOND = timedelta(seconds=1)


def test_a_pod_that_runs_and_never_becomes_ready_is_reported_as_not_answering() -> None:
    observed, now = starting()
    quiet = verdict(observed, now)
    assert quiet.failure is None
    since = parse_time(
        observed.pods[0]["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    )
    assert since
    # Time alone brings this out, so the decision asks to be made again then.
    assert quiet.recheck_at
    moments = [quiet.recheck_at]
    while moments[-1] < since + 60 * SECOND:
        again = verdict(observed, moments[-1]).recheck_at
        assert again
        moments.append(again)
    named = verdict(observed, moments[-1])
    assert moments[-1] == since + 60 * SECOND
    assert named.state is State.PROGRESSING
    assert named.failure
    assert named.failure.reason is FailureReason.NOT_ANSWERING
    words = "Readiness probe failed: connection refused"
    probed = replace(observed, events=(warning(observed.pods[0], "Unhealthy", words, now),))
    assert words in verdict(probed, moments[-1]).message


def test_a_second_exit_of_any_code_fails_also_while_the_container_runs_again() -> None:
    observed, now = starting()
    for code in (0, 1, 137):
        again = with_container(
            observed,
            state=running(now - SECOND),
            lastState=ended(code, now - 2 * SECOND),
            restartCount=2,
        )
        decision = verdict(again, now)
        assert decision.state is State.FAILED
        assert decision.failure
        assert (decision.failure.exit_code, decision.failure.restart_count) == (code, 2)


def test_a_second_exit_fails_before_the_kubelet_backs_off() -> None:
    observed, now = starting()
    assert verdict(with_container(observed, state=ended(1, now)), now).state is State.PROGRESSING
    second = with_container(observed, state=ended(1, now), restartCount=1)
    assert verdict(second, now).state is State.FAILED


def test_restarts_before_a_long_run_do_not_count_in_a_scale_up() -> None:
    observed, now = serving()
    grown_up = with_container(
        observed,
        ready=True,
        state=running(now - 61 * SECOND),
        lastState=ended(1, now - 65 * SECOND),
        restartCount=3,
    )
    short = with_deployment(grown_up, {"spec": {"replicas": 2}})
    short = with_condition(short, "Ready", status="False")
    decision = verdict(short, now)
    assert (decision.state, decision.failure) == (State.READY, None)


def test_kserves_report_of_a_failed_load_counts_for_a_model_and_not_for_a_container() -> None:
    failed_load = {
        "transitionStatus": "BlockedByFailedLoad",
        "lastFailureInfo": {"reason": "ModelLoadFailed", "exitCode": 1},
    }
    for base, reason in (
        (serving_model, FailureReason.MODEL_LOAD),
        (serving, FailureReason.CRASH_LOOP),
    ):
        observed, now = base()
        crashing = with_container(
            with_service(observed, {"status": {"modelStatus": failed_load}}),
            state=waiting("CrashLoopBackOff"),
            lastState=ended(1, now),
            restartCount=1,
        )
        decision = verdict(crashing, now)
        assert decision.failure
        assert decision.failure.reason is reason


def test_a_corrupt_model_whose_pod_is_ready_for_a_moment_is_never_ready() -> None:
    """It ran 10 s and exited with 0; the next run is Ready for a moment, and KServe says Loaded."""
    observed, now = serving_model()
    completed = with_deployment_condition(observed, "Progressing", lastUpdateTime=stamp(now))
    lying = with_container(
        completed,
        ready=True,
        state=running(now - 2 * SECOND),
        lastState=ended(0, now - 3 * SECOND, reason="Completed"),
        restartCount=1,
    )
    first = verdict(lying, now)
    assert first.state is State.PROGRESSING
    assert first.failure
    assert first.failure.exit_code == 0
    proven = verdict(lying, now + 60 * SECOND)
    assert proven.state is State.READY


def test_a_corrupt_model_whose_pod_is_ready_again_is_not_ready_either() -> None:
    """At 431 s: complete once, Ready again, and the fifth restart."""
    observed, now = serving_model()
    now += 371 * SECOND
    lying = with_container(
        observed,
        ready=True,
        state=running(now - 2 * SECOND),
        lastState=ended(0, now - 160 * SECOND, reason="Completed"),
        restartCount=5,
    )
    assert facts(lying, now).completed_at
    decision = verdict(lying, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.CRASH_LOOP
    assert not facts(lying, now).serving


def test_a_pod_that_restarts_after_a_long_run_is_stable_at_once() -> None:
    observed, now = serving()
    now += timedelta(days=3)
    back = with_container(
        observed,
        ready=True,
        state=running(now - 5 * SECOND),
        lastState=ended(137, now - 6 * SECOND, ran=200_000, reason="OOMKilled"),
        restartCount=4,
    )
    assert verdict(back, now).state is State.READY


def test_while_it_is_away_after_a_long_run_the_service_has_ten_seconds() -> None:
    observed, now = serving()
    now += timedelta(days=3)
    down = with_container(
        observed,
        state=ended(137, now, ran=200_000, reason="OOMKilled"),
        restartCount=3,
    )
    down = with_pod_condition(down, "Ready", lastTransitionTime=stamp(now))
    assert verdict(down, now).state is State.PROGRESSING
    late = verdict(down, now + 11 * SECOND)
    assert late.state is State.FAILED
    assert late.failure
    assert late.failure.reason is FailureReason.OUT_OF_MEMORY


def test_the_cause_in_a_termination_message_that_is_the_tail_of_a_log_is_reported() -> None:
    observed, now = starting()
    tail = LEGACY_MODEL.read_text()[-4096:]
    down = with_container(observed, state=ended(1, now, message=tail), restartCount=1)
    failure = verdict(down, now).failure
    assert failure
    assert "XGBoostError: " in failure.message
    assert "gRPC server shutdown" not in failure.message


NO_SUCH_COMMAND = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc"
    " create failed: unable to start container process: exec:"
    ' "no-such-program": executable file not found in $PATH: unknown'
)


def never_started(now: datetime, words: str) -> dict[str, dict[str, object]]:
    """containerd reports the epoch as the start."""
    exited = ended(128, now, reason="StartError", message=words)
    return {"terminated": {**exited["terminated"], "startedAt": "1970-01-01T00:00:00Z"}}


def test_a_command_that_the_image_does_not_have_fails_at_its_first_start() -> None:
    observed, now = starting()
    first = with_container(
        observed,
        state=waiting("RunContainerError", NO_SUCH_COMMAND),
        lastState=never_started(now, NO_SUCH_COMMAND),
    )
    decision = verdict(first, now)
    assert decision.state is State.FAILED
    failure = decision.failure
    assert failure
    assert failure.reason is FailureReason.CONTAINER_CONFIG
    assert (failure.container, failure.exit_code) == ("kserve-container", 128)
    assert "executable file not found" in failure.message
    assert " after " not in failure.message


def test_a_start_that_may_work_the_next_time_fails_at_the_second() -> None:
    observed, now = starting()
    busy = never_started(now, "failed to create containerd task: context deadline exceeded")
    assert verdict(with_container(observed, state=busy), now).state is State.PROGRESSING
    second = with_container(observed, state=busy, restartCount=1)
    assert verdict(second, now).state is State.FAILED


@pytest.mark.parametrize("code", [1, 137])
def test_memory_is_blamed_whatever_the_exit_code_after_a_child_was_killed(code: int) -> None:
    """The runtime remembers that the kernel killed one, though the container went on."""
    observed, now = starting()
    killed = with_container(observed, state=ended(code, now, reason="OOMKilled"), restartCount=1)
    decision = verdict(killed, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.OUT_OF_MEMORY
    assert decision.failure.exit_code == code


def test_an_exit_of_unknown_cause_after_a_reboot_of_the_node_is_reported() -> None:
    observed, now = starting()
    unknown = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}
    decision = verdict(with_container(observed, state=waiting("x"), lastState=unknown), now)
    assert decision.failure
    assert decision.failure.exit_code == 137


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("storage-initializer", FailureReason.STORAGE_DOWNLOAD),
        ("other", FailureReason.CRASH_LOOP),
    ],
)
def test_an_init_container_fails_at_its_second_end_and_names_the_download(
    name: str, reason: FailureReason
) -> None:
    observed, now = starting()

    def ends(restarts: int) -> ObservedObjects:
        status = {"name": name, "restartCount": restarts, "state": ended(1, now)}
        waits = with_container(observed, state=waiting("PodInitializing"))
        return with_pods(waits, {"status": {"initContainerStatuses": [status]}})

    assert verdict(ends(0), now).state is State.PROGRESSING
    decision = verdict(ends(1), now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert (decision.failure.reason, decision.failure.container) == (reason, name)


def test_the_newest_message_of_the_probe_is_reported() -> None:
    observed, now = starting()
    [pod] = observed.pods
    late = now + 61 * SECOND
    words = ("Readiness probe failed: connection refused", "HTTP probe failed with statuscode: 503")
    old, new = (warning(pod, "Unhealthy", w, now + n * SECOND) for n, w in enumerate(words))
    decision = verdict(replace(observed, events=(new, old)), late)
    assert decision.failure
    assert decision.failure.reason is FailureReason.NOT_ANSWERING
    assert words[1] in decision.failure.message
