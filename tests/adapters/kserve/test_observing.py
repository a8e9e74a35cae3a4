"""The state table, row by row, on services as a real cluster showed them, changed in one point."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from server.adapters.kserve.objects import holds, moment, name_of
from server.adapters.kserve.observing.components import parts_of, workloads_of
from server.adapters.kserve.observing.observed import Observed
from server.domain.status import Component, FailureReason, State
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import (
    beginning,
    end,
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
    when,
    with_condition,
    with_container,
    with_deployment,
    with_deployment_condition,
    with_pod_condition,
    with_pods,
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


@pytest.mark.parametrize("component", ["Predictor", "Transformer"])
def test_ready_needs_every_component_though_kserve_counts_the_predictor_only(
    component: str,
) -> None:
    observed, now = when("transformer", _both_ready)
    assert verdict(observed, now).state is State.READY
    condition = with_condition(observed, f"{component}Ready", status="False")
    assert not facts(condition, now).ready


def test_a_component_that_only_the_status_names_does_not_count() -> None:
    observed, now = serving()
    left_over = with_service(observed, {"status": {"components": {"transformer": {}}}})
    left_over = with_condition(left_over, "TransformerReady", status="False")
    decision = verdict(left_over, now)
    assert decision.state is State.READY
    assert [c.shown.component for c in facts(left_over, now).components] == [Component.PREDICTOR]


def test_a_canary_with_the_same_labels_and_marker_is_not_taken_for_the_predictor() -> None:
    observed, now = serving()
    [stable] = observed.deployments
    canary = merged(stable, {"metadata": {"name": "iris-b-predictor", "uid": "canary"}})
    broken = merged(canary, {"status": {"availableReplicas": None}})
    assert verdict(replace(observed, deployments=(broken, stable)), now).state is State.READY
    assert verdict(replace(observed, deployments=(canary,)), now).state is State.PENDING


def test_workers_of_a_multi_node_predictor_must_be_complete_too() -> None:
    observed, now = serving()
    asked = with_service(observed, {"spec": {"predictor": {"workerSpec": {}}}})
    assert verdict(asked, now).state is State.PROGRESSING
    [head] = asked.deployments
    worker = merged(head, {"metadata": {"name": "iris-predictor-worker"}})
    assert verdict(replace(asked, deployments=(head, worker)), now).state is State.READY
    missing = merged(worker, {"spec": {"replicas": 2}})
    assert not facts(replace(asked, deployments=(head, missing)), now).finished


def test_a_deployment_that_was_not_looked_at_yet_is_not_complete_though_it_once_was() -> None:
    observed, now = serving()
    ahead = with_deployment(observed, {"metadata": {"generation": 9}})
    assert not facts(ahead, now).finished
    assert facts(ahead, now).completed_at == facts(observed, now).completed_at
    others = with_deployment_condition(ahead, "Progressing", message='ReplicaSet "other" is done')
    assert facts(others, now).completed_at is None


def test_a_deployment_that_scales_up_is_not_complete_but_ready() -> None:
    observed, now = serving()
    short = {"spec": {"replicas": 2}, "status": {"replicas": 2, "updatedReplicas": 2}}
    growing = with_deployment(observed, short)
    growing = with_deployment_condition(growing, "Available", status="False")
    growing = with_condition(growing, "Ready", status="False")
    just_completed = facts(observed, now).completed_at
    assert just_completed
    assert verdict(growing, just_completed).state is State.READY


def test_a_deployment_whose_replica_set_is_not_known_yet_was_never_complete() -> None:
    observed, now = serving()
    assert facts(observed, now).completed_at
    assert facts(replace(observed, replica_sets=()), now).completed_at is None


def test_new_pods_are_those_of_the_present_template_also_without_a_marker() -> None:
    observed, _ = when("unmanaged_container", lambda o: len(o.pods) == 2)
    assert len(observed.replica_sets) == 2
    [workload] = workloads_of(next(parts_of(observed.service)), observed)
    [pod] = workload.new_pods
    assert pod["spec"]["containers"][0]["image"] == "lab/slow:3s"
    assert len(workload.pods) == 2


@pytest.mark.parametrize(
    ("asked", "autoscaler", "fits"),
    [
        ({}, {}, True),
        ({"maxReplicas": 3}, {}, False),
        ({"maxReplicas": 3}, {"maxReplicas": 3}, True),
        ({"minReplicas": 0}, {}, True),
        ({"scaleTarget": 50}, {}, False),
        ({"scaleMetric": "memory", "scaleTarget": 80}, {}, False),
        ({"scaleMetric": "memory"}, {}, True),
    ],
)
def test_scaling_is_as_asked_once_the_autoscaler_has_its_bounds_and_target(
    asked: dict[str, object], autoscaler: dict[str, object], *, fits: bool
) -> None:
    observed, now = serving()
    observed = with_service(observed, {"spec": {"predictor": asked}})
    scaled = tuple(merged(a, {"spec": autoscaler}) for a in observed.autoscalers)
    assert facts(replace(observed, autoscalers=scaled), now).scaled is fits


def test_without_an_autoscaler_the_replicas_themselves_must_be_as_asked() -> None:
    observed, now = serving()
    none = {"serving.kserve.io/autoscalerClass": "none"}
    asked = {"metadata": {"annotations": none}, "spec": {"predictor": {"minReplicas": 0}}}
    observed = replace(with_service(observed, asked), autoscalers=())
    assert not facts(observed, now).scaled
    at_zero = with_deployment(observed, {"spec": {"replicas": 0}})
    decision = verdict(at_zero, now)
    assert decision.state is State.STOPPED
    assert decision.failure
    assert decision.failure.reason is FailureReason.SCALED_TO_ZERO


def test_a_pod_on_its_way_out_does_not_answer() -> None:
    observed, now = serving()
    going = with_pods(observed, {"metadata": {"deletionTimestamp": stamp(now)}})
    assert facts(going, now).components[0].available == 0


def test_a_first_pull_error_that_may_pass_is_only_named_until_the_kubelet_backs_off() -> None:
    observed, now = starting()
    pulling = with_container(observed, state=waiting("ErrImagePull", "dial tcp: i/o timeout"))
    named = verdict(pulling, now)
    assert named.state is State.PROGRESSING
    assert named.failure
    assert named.failure.reason is FailureReason.IMAGE_PULL
    backing_off = with_container(observed, state=waiting("ImagePullBackOff", "Back-off pulling"))
    assert verdict(backing_off, now).state is State.FAILED
    warned = warning(observed.pods[0], "Failed", "Error: ImagePullBackOff", now)
    assert verdict(replace(pulling, events=(warned,)), now).state is State.FAILED


@pytest.mark.parametrize("words", ["x: not found", "pull access denied", "401 Unauthorized"])
def test_a_first_pull_error_that_cannot_pass_fails_at_once(words: str) -> None:
    observed, now = starting()
    pulling = with_container(observed, state=waiting("ErrImagePull", words))
    assert verdict(pulling, now).state is State.FAILED


def test_an_image_name_that_can_never_be_pulled_is_not_retried() -> None:
    observed, now = starting()
    decision = verdict(with_container(observed, state=waiting("InvalidImageName", "bad")), now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert not decision.failure.retrying


def test_a_missing_secret_key_fails_at_once_with_the_clusters_own_words() -> None:
    observed, now = starting()
    words = "couldn't find key TOKEN in Secret models/creds"
    broken = with_container(observed, state=waiting("CreateContainerConfigError", words))
    decision = verdict(broken, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.CONTAINER_CONFIG
    assert words in decision.failure.message


def test_a_volume_that_cannot_be_mounted_fails_after_ten_seconds() -> None:
    observed, now = starting()
    creating = with_container(observed, state=waiting("ContainerCreating"))
    warned = warning(creating.pods[0], "FailedMount", 'secret "x" not found', now)
    stuck = replace(creating, events=(warned,))
    named = verdict(stuck, now)
    assert named.state is State.PROGRESSING
    assert named.failure
    assert named.failure.reason is FailureReason.VOLUME
    assert verdict(stuck, now + 10 * SECOND).state is State.FAILED


def test_an_old_volume_warning_of_a_pod_that_runs_is_forgotten() -> None:
    observed, now = starting()
    warned = warning(observed.pods[0], "FailedMount", "timed out", now)
    assert verdict(replace(observed, events=(warned,)), now).failure is None


def test_a_claim_that_is_not_bound_yet_has_as_long_as_a_node_that_fits() -> None:
    observed, now = starting()
    words = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    fields = {"status": "False", "reason": "Unschedulable", "message": words}
    unbound = with_pod_condition(observed, "PodScheduled", lastTransitionTime=stamp(now), **fields)
    assert verdict(unbound, now + 59 * SECOND).state is State.PROGRESSING
    late = verdict(unbound, now + 61 * SECOND)
    assert late.state is State.FAILED
    assert late.failure
    assert late.failure.reason is FailureReason.VOLUME


def test_a_pod_that_runs_and_never_gets_ready_is_said_not_to_answer() -> None:
    observed, now = starting()
    quiet = verdict(observed, now)
    assert quiet.failure is None
    since = moment(
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


def deadline_passed(observed: Observed, now: datetime, *, of: str = "") -> Observed:
    replica_set = of or name_of(observed.replica_sets[0])
    return with_deployment_condition(
        observed,
        "Progressing",
        status="False",
        reason="ProgressDeadlineExceeded",
        message=f'ReplicaSet "{replica_set}" has timed out progressing.',
        lastTransitionTime=stamp(now),
    )


def test_past_its_deadline_a_rollout_fails_for_the_cause_that_is_known() -> None:
    observed, now = starting()
    no_cause = verdict(deadline_passed(observed, now), now)
    assert no_cause.state is State.FAILED
    assert no_cause.failure
    assert no_cause.failure.reason is FailureReason.PROGRESS_DEADLINE
    assert no_cause.failure.retrying
    pulling = with_container(observed, state=waiting("ErrImagePull", "i/o timeout"))
    caused = verdict(deadline_passed(pulling, now), now)
    assert caused.state is State.FAILED
    assert caused.failure
    assert caused.failure.reason is FailureReason.IMAGE_PULL


def test_the_deadline_that_the_rollout_before_passed_fails_no_newer_one() -> None:
    observed, now = starting()
    fixing = verdict(deadline_passed(observed, now, of="iris-predictor-before"), now)
    assert fixing.state is State.PROGRESSING
    assert fixing.failure is None


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


def test_restarts_that_a_pod_has_lived_down_do_not_count_in_a_scale_up() -> None:
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


def test_of_a_model_kserve_says_that_it_could_not_be_loaded_of_a_container_nobody() -> None:
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


def test_the_lie_of_a_corrupt_model_is_never_told_as_ready() -> None:
    """It ran 10 s and ended with 0; its next run is Ready for a moment, and KServe says Loaded."""
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


def test_the_second_lie_of_a_corrupt_model_is_not_believed_either() -> None:
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


def test_a_pod_that_comes_back_after_a_long_run_is_believed_at_once() -> None:
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


def test_pods_of_a_node_that_no_longer_answers_name_it() -> None:
    observed, now = serving()
    # As the node's controller leaves them: the kubelet did not write this.
    lost = with_pod_condition(observed, "Ready", status="False", lastTransitionTime=stamp(now))
    decision = verdict(lost, now + 11 * SECOND)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.NODE_LOST
    assert "lab-node" in decision.failure.message


def test_of_many_replicas_one_failing_degrades_and_the_others_serve() -> None:
    observed, now = end("scaling_alone")
    [crashed, *others] = observed.pods
    broken = with_container(
        replace(observed, pods=(crashed,)),
        state=waiting("CrashLoopBackOff"),
        lastState=ended(1, now),
        restartCount=3,
    )
    decision = verdict(replace(observed, pods=(*broken.pods, *others)), now)
    assert decision.state is State.DEGRADED
    assert decision.failure
    assert decision.failure.pod == crashed["metadata"]["name"]


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
    decision = verdict(replace(knative, deployments=()), now)
    assert decision.state is State.PENDING
    assert "Knative is not followed" in decision.message


def _both_ready(observed: Observed) -> bool:
    ready = [holds(observed.service, f"{c}Ready") for c in ("Predictor", "Transformer")]
    pods_ready = [holds(p, "Ready") for p in observed.pods]
    return all(ready) and len(pods_ready) == 2 and all(pods_ready)
