"""The state table, row by row, on services as a real cluster showed them, changed in one point."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from server.domain.status import FailureReason, State
from tests.adapters.kserve.shown import (
    beginning,
    end,
    facts,
    serving,
    serving_model,
    stamp,
    verdict,
    warning,
    with_condition,
    with_deployment_condition,
    with_service,
)

SECOND = timedelta(seconds=1)
STOP = "serving.kserve.io/stop"


def test_a_service_that_is_being_deleted_is_deleting_whatever_else_it_is() -> None:
    observed, now = serving()
    going = with_service(observed, {"metadata": {"deletionTimestamp": stamp(now)}})
    assert verdict(going, now).state is State.DELETING


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_a_stop_in_any_case_is_under_way_until_the_last_pod_is_gone(word: str) -> None:
    observed, now = serving()
    stopping = with_service(observed, {"metadata": {"annotations": {STOP: word}}})
    assert verdict(stopping, now).state is State.PROGRESSING
    stopped = with_condition(stopping, "Stopped", status="True")
    assert verdict(stopped, now).state is State.PROGRESSING
    assert verdict(replace(stopped, pods=()), now).state is State.STOPPED


def test_a_stop_annotation_that_says_false_stops_nothing() -> None:
    observed, now = serving()
    going_on = with_service(observed, {"metadata": {"annotations": {STOP: "false"}}})
    assert verdict(going_on, now).state is State.READY


def test_without_a_verdict_of_kserve_no_controller_is_blamed_after_15_seconds() -> None:
    observed, now = beginning("slow")
    first = verdict(observed, now)
    assert (first.state, first.failure) == (State.PENDING, None)
    assert first.recheck_at
    late = verdict(observed, first.recheck_at)
    assert late.state is State.PENDING
    assert late.failure
    assert late.failure.reason is FailureReason.NO_CONTROLLER
    assert first.recheck_at - now <= 16 * SECOND


def test_a_service_that_kserve_leaves_to_another_controller_is_told_as_not_followed() -> None:
    observed, now = beginning("slow")
    mode = {"serving.kserve.io/deploymentMode": "ModelMesh"}
    left = with_service(observed, {"metadata": {"annotations": mode}, "status": None})
    late = verdict(left, now + 60 * SECOND)
    assert (late.state, late.failure) == (State.PENDING, None)
    assert "ModelMesh is not followed" in late.message


def test_kserves_lost_races_are_no_refusals() -> None:
    observed, now = beginning("bad_scheme")
    words = "fails to update InferenceService status: Operation cannot be fulfilled on"
    other = "Operation cannot be fulfilled on x: the object has been modified; please apply"
    harmless = (
        warning(observed.service, "InternalError", words, now),
        warning(observed.service, "UpdateFailed", "Failed to update status", now),
        warning(observed.service, "InternalError", other, now),
    )
    assert facts(replace(observed, events=harmless), now).refusal is None


@pytest.mark.parametrize(
    ("reason", "words", "meaning", "retrying"),
    [
        ("InternalError", "specified runtime x is disabled", FailureReason.NO_RUNTIME, True),
        ("InternalError", "StorageURI not supported: x", FailureReason.STORAGE_SCHEME, True),
        ("InternalError", "services x is forbidden: exceeded quota", FailureReason.QUOTA, True),
        ("InternalError", 'Deployment "x" is invalid: y', FailureReason.INVALID_SPEC, False),
        ("InternalError", "something else", FailureReason.INVALID_SPEC, True),
        ("ServerlessModeRejected", "no Knative", FailureReason.INVALID_SPEC, False),
    ],
)
def test_a_refusal_is_told_by_its_meaning_after_two_seconds(
    reason: str, words: str, meaning: FailureReason, *, retrying: bool
) -> None:
    observed, now = beginning("bad_scheme")
    refused = replace(observed, events=(warning(observed.service, reason, words, now),))
    assert verdict(refused, now).state is State.PENDING
    decision = verdict(refused, now, told_before=2)
    assert decision.state is State.FAILED
    assert decision.failure
    assert (decision.failure.reason, decision.failure.retrying) == (meaning, retrying)
    assert words in decision.failure.message


@pytest.mark.parametrize("kind", ["NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled"])
def test_a_status_that_refuses_is_enough_without_an_event(kind: str) -> None:
    observed, now = end("unknown_runtime")
    failed = {"status": {"modelStatus": {"lastFailureInfo": {"reason": kind, "message": "why"}}}}
    refused = replace(with_service(observed, failed), events=())
    decision = verdict(refused, now, told_before=2)
    assert decision.failure
    assert decision.failure.reason is FailureReason.NO_RUNTIME
    assert "why" in decision.failure.message


def test_a_stale_failure_info_alone_is_no_evidence() -> None:
    observed, now = serving_model()
    old = {"lastFailureInfo": {"reason": "ModelLoadFailed", "exitCode": 1}}
    assert verdict(with_service(observed, {"status": {"modelStatus": old}}), now).state is (
        State.READY
    )


def test_updates_that_kserve_was_told_to_ignore_are_named_while_it_is_ready() -> None:
    observed, now = end("updates_disabled")
    assert verdict(observed, now).failure
    unready = with_condition(observed, "Ready", status="False")
    assert verdict(unready, now).failure is None


def test_a_model_that_serves_behind_an_ingress_that_does_not_is_not_ready() -> None:
    observed, now = serving()
    closed = with_condition(
        with_condition(observed, "Ready", status="False"),
        "IngressReady",
        status="False",
        reason="HTTPRouteNotReady",
        lastTransitionTime=stamp(now),
    )
    decision = verdict(closed, now)
    assert decision.state is State.PROGRESSING
    assert decision.failure
    assert decision.failure.reason is FailureReason.INGRESS
    assert "HTTPRouteNotReady" in decision.failure.message


def test_a_finished_rollout_waits_for_kserve_to_say_so_but_not_for_ever() -> None:
    observed, now = serving()
    lagging = with_condition(
        with_condition(observed, "Ready", status="False"), "PredictorReady", status="False"
    )
    just_now = with_deployment_condition(lagging, "Progressing", lastUpdateTime=stamp(now))
    assert verdict(just_now, now).state is State.PROGRESSING
    assert verdict(just_now, now + 5 * SECOND).state is State.READY


def test_of_a_mode_that_is_not_followed_nothing_is_claimed() -> None:
    observed, now = serving()
    knative = with_service(observed, {"status": {"deploymentMode": "Knative"}})
    decision = verdict(replace(knative, deployments=(), knative_followed=False), now)
    assert decision.state is State.PENDING
    assert "Knative is not followed" in decision.message
