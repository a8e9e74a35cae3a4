"""The state table, row by row, on recorded services, each changed in one point."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.manifests.field_managers import last_spec_writer
from server.adapters.kserve.manifests.field_ownership import managers_of
from server.adapters.kserve.objects import name_of
from server.adapters.kserve.releases import KSERVE_0_15
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import parse_service
from server.adapters.kserve.status.service_status import facts_of, status_of
from server.adapters.kserve.status.staleness import StalenessCheck
from server.domain.rollout.state_table import Decision, decide
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import (
    beginning,
    end,
    facts,
    serving,
    serving_model,
    stamp,
    verdict,
    waiting,
    warning,
    with_condition,
    with_deployment_condition,
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
    childless = replace(stopped, deployments=(), replica_sets=())
    assert verdict(childless, now).state is State.PROGRESSING
    gone = replace(childless, pods=())
    assert verdict(gone, now).state is State.STOPPED
    ended = with_pods(childless, {"status": {"phase": "Succeeded"}})
    assert verdict(ended, now).state is State.STOPPED


@pytest.mark.parametrize("kind", ["deployments", "replica_sets"])
def test_a_service_is_not_stopped_while_an_object_is_left_that_makes_pods(kind: str) -> None:
    observed, now = serving()
    asked = with_service(observed, {"metadata": {"annotations": {STOP: "true"}}})
    stopped = with_condition(asked, "Stopped", status="True")
    left = replace(stopped, deployments=(), replica_sets=(), pods=())
    left = replace(left, **{kind: getattr(observed, kind)})
    assert verdict(left, now).state is State.PROGRESSING
    scaled = {kind: tuple(merged(o, {"spec": {"replicas": 0}}) for o in getattr(left, kind))}
    assert verdict(replace(left, **scaled), now).state is State.STOPPED
    deleted = {"metadata": {"deletionTimestamp": stamp(now)}}
    going = {kind: tuple(merged(o, deleted) for o in getattr(left, kind))}
    assert verdict(replace(left, **going), now).state is State.STOPPED


def stopped_again() -> tuple[ObservedObjects, datetime]:
    """Started and stopped again, with the condition Stopped of the stop before, and nothing of what
    KServe makes for the start."""
    observed, now = serving()
    entry = {
        "manager": "modelservice",
        "operation": "Apply",
        "time": stamp(now),
        "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{STOP}": {}}}, "f:spec": {}},
    }
    asked = {"annotations": {STOP: "true"}, "managedFields": [entry], "generation": 4}
    again = with_condition(with_service(observed, {"metadata": asked}), "Stopped", status="True")
    return replace(again, deployments=(), replica_sets=(), pods=()), now


def test_the_condition_of_an_earlier_stop_makes_no_stopped_for_five_seconds() -> None:
    again, now = stopped_again()
    first = verdict(again, now)
    assert first.state is State.PROGRESSING
    assert first.recheck_at
    assert verdict(again, first.recheck_at - SECOND, lasting=3).state is State.PROGRESSING
    assert verdict(again, first.recheck_at, lasting=5).state is State.STOPPED


def test_a_condition_that_changed_after_the_stop_is_about_that_stop() -> None:
    again, now = stopped_again()
    before = with_condition(again, "Stopped", status="False")
    staleness = StalenessCheck().updated(before, now).updated(again, now)
    assert decide(facts_of(again, staleness, now)).state is State.STOPPED


def test_a_deploy_of_a_stopped_service_leaves_it_stopped_at_once() -> None:
    again, now = stopped_again()
    before = with_condition(again, "Stopped", status="False")
    staleness = StalenessCheck().updated(before, now).updated(again, now)
    deployed = with_service(again, {"metadata": {"generation": 5}})
    staleness = staleness.updated(deployed, now)
    assert decide(facts_of(deployed, staleness, now)).state is State.STOPPED
    # With a generation in between that was not seen, it may have been started.
    unseen = with_service(again, {"metadata": {"generation": 7}})
    staleness = staleness.updated(unseen, now)
    assert decide(facts_of(unseen, staleness, now)).state is State.PROGRESSING


def test_a_stop_annotation_that_says_false_stops_nothing() -> None:
    observed, now = serving()
    going_on = with_service(observed, {"metadata": {"annotations": {STOP: "false"}}})
    assert verdict(going_on, now).state is State.READY


def test_a_service_that_kserve_does_not_reconcile_has_no_controller_after_15_seconds() -> None:
    observed, now = beginning("slow")
    first = verdict(observed, now)
    assert (first.state, first.failure) == (State.PENDING, None)
    assert first.recheck_at
    late = verdict(observed, first.recheck_at)
    assert late.state is State.PENDING
    assert late.failure
    assert late.failure.reason is FailureReason.NO_CONTROLLER
    assert first.recheck_at - now <= 16 * SECOND


def test_a_service_that_kserve_leaves_to_another_controller_is_reported_as_not_followed() -> None:
    observed, now = beginning("slow")
    mode = {"serving.kserve.io/deploymentMode": "ModelMesh"}
    left = with_service(observed, {"metadata": {"annotations": mode}, "status": None})
    late = verdict(left, now + 60 * SECOND)
    assert (late.state, late.failure) == (State.PENDING, None)
    assert "ModelMesh is not followed" in late.message


def test_an_update_that_kserve_does_not_look_at_blames_the_controller_after_15_seconds() -> None:
    observed, now = serving()
    now = now.replace(microsecond=0)
    [ours, *others] = observed.service["metadata"]["managedFields"]
    written = {"generation": 2, "managedFields": [{**ours, "time": stamp(now)}, *others]}
    predictor = {"predictor": {"annotations": {"modelservice.dev/rollout": "m2"}}}
    updated = with_service(observed, {"metadata": written, "spec": predictor})
    held = StalenessCheck().updated(updated, now)

    def reported(shown: ObservedObjects, seconds: int) -> Decision:
        later = now + seconds * SECOND
        return decide(facts_of(shown, held.updated(shown, later), later))

    first = reported(updated, 0)
    assert (first.state, first.failure) == (State.PROGRESSING, None)
    assert first.recheck_at
    assert first.recheck_at <= now + 15 * SECOND
    late = reported(updated, 15)
    assert late.state is State.PROGRESSING
    assert late.failure
    assert late.failure.reason is FailureReason.NO_CONTROLLER
    assert late.failure.retrying
    # Whatever it says of this write, it runs.
    moved = with_condition(updated, "PredictorReady", status="Unknown", reason="Deploying")
    assert reported(moved, 15).failure is None
    said = warning(updated.service, "InternalError", "the object has been modified", now)
    said["lastTimestamp"] = stamp(now + 6 * SECOND)
    assert reported(replace(updated, events=(said,)), 15).failure is None


def test_kserves_lost_races_are_no_errors() -> None:
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
def test_an_error_is_reported_by_its_reason_after_two_seconds(
    reason: str, words: str, meaning: FailureReason, *, retrying: bool
) -> None:
    observed, now = beginning("bad_scheme")
    refused = replace(observed, events=(warning(observed.service, reason, words, now),))
    assert verdict(refused, now).state is State.PENDING
    decision = verdict(refused, now, lasting=2)
    assert decision.state is State.FAILED
    assert decision.failure
    assert (decision.failure.reason, decision.failure.retrying) == (meaning, retrying)
    assert words in decision.failure.message


@pytest.mark.parametrize("kind", ["NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled"])
def test_an_error_in_the_status_counts_without_an_event(kind: str) -> None:
    observed, now = end("unknown_runtime")
    failed = {"status": {"modelStatus": {"lastFailureInfo": {"reason": kind, "message": "why"}}}}
    refused = replace(with_service(observed, failed), events=())
    decision = verdict(refused, now, lasting=2)
    assert decision.failure
    assert decision.failure.reason is FailureReason.NO_RUNTIME
    assert "why" in decision.failure.message


def test_a_stale_failure_info_alone_is_no_error() -> None:
    observed, now = serving_model()
    old = {"lastFailureInfo": {"reason": "ModelLoadFailed", "exitCode": 1}}
    assert verdict(with_service(observed, {"status": {"modelStatus": old}}), now).state is (
        State.READY
    )


def test_updates_that_an_annotation_disables_are_named_while_the_service_is_ready() -> None:
    observed, now = end("updates_disabled")
    assert verdict(observed, now).failure
    unready = with_condition(observed, "Ready", status="False")
    assert verdict(unready, now).failure is None


def test_what_kserve_0_15_does_not_know_keeps_it_from_no_update() -> None:
    observed, now = end("updates_disabled")
    assert verdict(replace(observed, release=KSERVE_0_15), now).failure is None


def test_a_stop_that_kserve_0_15_does_not_carry_out_leaves_the_service_ready() -> None:
    observed, now = serving()
    asked = with_service(observed, {"metadata": {"annotations": {STOP: "true"}}})
    others = [c for c in asked.service["status"]["conditions"] if c["type"] != "Stopped"]
    on_0_15 = replace(with_service(asked, {"status": {"conditions": others}}), release=KSERVE_0_15)
    assert verdict(on_0_15, now).state is State.READY
    # In Knative mode it does, and a vendor's 0.15 that says so does in Standard mode too.
    knative = with_service(on_0_15, {"status": {"deploymentMode": "Serverless"}})
    assert verdict(replace(knative, knative_followed=True), now).state is State.PROGRESSING
    reported = with_condition(on_0_15, "Stopped", status="False")
    assert verdict(reported, now).state is State.PROGRESSING


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


def test_kserves_own_conditions_decide_ready_and_a_foreign_condition_is_named() -> None:
    observed, now = serving()
    drift = {"status": "False", "reason": "NoDrift", "message": "nothing drifts"}
    denied = with_condition(with_condition(observed, "ModelDrift", **drift), "Ready", **drift)
    fresh = with_deployment_condition(denied, "Progressing", lastUpdateTime=stamp(now))
    decision = verdict(fresh, now)
    assert (decision.state, decision.failure) == (State.READY, None)
    assert "Ready=False" in decision.message
    assert "ModelDrift (NoDrift: nothing drifts)" in decision.message
    assert "Stopped" not in decision.message, "KServe's own conditions beside Ready are not blamed"


def test_the_message_of_a_foreign_condition_is_cut() -> None:
    observed, now = serving()
    long = "Model" + "Drift" * 100_000
    drift = {"status": "False", "reason": long, "message": long}
    denied = with_condition(with_condition(observed, long, **drift), "Ready", **drift)
    fresh = with_deployment_condition(denied, "Progressing", lastUpdateTime=stamp(now))
    reported = facts(fresh, now)
    decision = decide(reported)
    assert decision.state is State.READY
    assert f"not KServe's own: {long[:64]}... (" in decision.message
    assert len(decision.message) < 1000
    status = status_of(fresh, reported, decision, None)
    [shown] = [c for c in status.conditions if c.type.startswith("Model")]
    assert (len(shown.type), len(shown.reason), len(shown.message)) == (316, 1024, 32_768)


def failing_to_reconcile(words: str) -> tuple[ObservedObjects, datetime]:
    """A rollout with ready pods, for which KServe reports a reconcile error."""
    observed, now = serving()
    reported = {"status": "False", "reason": "ReconcileFailed", "message": words}
    for kind in ("PredictorReady", "Ready"):
        observed = with_condition(observed, kind, **reported, lastTransitionTime=stamp(now))
    return observed, now


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ('no matches for kind "ScaledObject" in version "keda.sh/v1alpha1"', "RECONCILE_FAILED"),
        ("something that nobody foresaw", "RECONCILE_FAILED"),
        ("failed calling webhook: connection refused", "RECONCILE_FAILED"),
        ("services x is forbidden: exceeded quota: q", "QUOTA"),
        ('HorizontalPodAutoscaler "x" is invalid: y', "INVALID_SPEC"),
    ],
)
def test_a_lasting_reconcile_error_is_reported_although_all_pods_are_of_this_rollout(
    words: str, meaning: str
) -> None:
    observed, now = failing_to_reconcile(words)
    at_once = verdict(observed, now)
    assert (at_once.state, at_once.failure) == (State.PROGRESSING, None)
    assert at_once.recheck_at
    named = verdict(observed, now, lasting=2)
    assert named.state is State.PROGRESSING
    assert named.failure
    assert words in named.message
    stands = verdict(observed, now, lasting=5)
    assert stands.state is State.DEGRADED
    assert stands.failure
    assert stands.failure.reason is FailureReason[meaning]
    assert words in stands.message


@pytest.mark.parametrize(
    ("words", "kind", "name", "owner"),
    [
        (
            'fails to reconcile predictor: Deployment.apps "iris-predictor-2" is invalid:'
            ' spec.selector: Invalid value: {"matchLabels":{"app":"x"}}: field is immutable',
            "Deployment",
            "iris-predictor-2",
            "",
        ),
        (
            'HorizontalPodAutoscaler.autoscaling "iris" is invalid: metadata.ownerReferences:'
            " Invalid value: []: Only one reference can have Controller set to true. Found"
            ' "true" in references for Rollout/theirs and InferenceService/iris',
            "HorizontalPodAutoscaler",
            "iris",
            "Rollout/theirs",
        ),
        ('services "iris" already exists', "Service", "iris", ""),
        (
            'There is an existing Configuration "iris" that we do not own.',
            "Configuration",
            "iris",
            "",
        ),
    ],
)
def test_a_foreign_object_of_the_same_name_is_named_and_the_spec_not_blamed(
    words: str, kind: str, name: str, owner: str
) -> None:
    observed, now = failing_to_reconcile(words)
    # It may be one of an earlier life of the service, which is being deleted.
    assert verdict(observed, now, lasting=59).state is State.PROGRESSING
    assert verdict(observed, now, lasting=60).state is State.DEGRADED
    failure = verdict(observed, now, lasting=2).failure
    assert failure
    assert failure.reason is FailureReason.RECONCILE_FAILED
    assert failure.retrying
    of = f", which belongs to {owner}," if owner else ""
    assert f"the {kind} {name}{of} has the name that this service needs" in failure.message
    assert failure.remedy.startswith(f"delete the {kind} {name} if nobody needs it, or")


def test_a_replica_that_has_just_started_knows_since_when_an_object_is_in_the_way() -> None:
    words = 'services "iris" already exists'
    observed, now = failing_to_reconcile(words)
    assert verdict(observed, now + 59 * SECOND).state is State.PROGRESSING
    assert verdict(observed, now + 60 * SECOND).state is State.DEGRADED

    observed, now = beginning("bad_scheme")
    said = warning(observed.service, "InternalError", words, now)
    said["lastTimestamp"] = stamp(now + 50 * SECOND)
    refused = replace(observed, events=(said,))
    named = verdict(refused, now + 58 * SECOND)
    assert named.state is State.PENDING
    assert named.failure
    assert named.failure.reason is FailureReason.RECONCILE_FAILED
    assert verdict(refused, now + 60 * SECOND).state is State.FAILED


def test_an_older_report_of_an_object_in_the_way_counts_from_the_write() -> None:
    observed, now = failing_to_reconcile('services "iris" already exists')
    long_ago = stamp(now - 600 * SECOND)
    observed = with_condition(observed, "PredictorReady", lastTransitionTime=long_ago)
    written_at = parse_service(observed).written_at
    assert verdict(observed, written_at + 59 * SECOND).state is State.PROGRESSING
    assert verdict(observed, written_at + 60 * SECOND).state is State.DEGRADED


def test_a_deployment_that_kserve_created_for_this_service_is_not_foreign() -> None:
    observed, _ = serving()
    [own] = map(name_of, observed.deployments)
    observed, now = failing_to_reconcile(
        f'Deployment.apps "{own}" is invalid: spec.selector: Invalid value: field is immutable'
    )
    failure = verdict(observed, now, lasting=5).failure
    assert failure
    assert "was not created for it" not in failure.message
    assert failure.remedy == f"delete the Deployment {own}: KServe creates it again"


def test_a_lost_race_is_no_reconcile_error() -> None:
    observed, now = failing_to_reconcile(
        "Operation cannot be fulfilled: the object has been modified"
    )
    assert verdict(observed, now, lasting=60).state is State.READY


def test_a_lost_race_does_not_restart_a_reconcile_error() -> None:
    observed, now = failing_to_reconcile("no matches for kind")
    race, _ = failing_to_reconcile("the object has been modified")
    staleness = StalenessCheck()
    for seconds, seen in ((0, observed), (3, race), (6, observed)):
        staleness = staleness.updated(seen, now + seconds * SECOND)
    reported = decide(facts_of(observed, staleness, now + 6 * SECOND))
    assert reported.failure
    assert reported.failure.first_seen_time == now


def test_a_route_that_kserve_does_not_report_on_is_named_after_a_while() -> None:
    observed, now = serving()
    for kind in ("Ready", "IngressReady"):
        observed = with_condition(observed, kind, status="Unknown", lastTransitionTime=stamp(now))
    first = verdict(observed, now)
    assert (first.state, first.failure) == (State.PROGRESSING, None)
    assert first.recheck_at
    later = verdict(observed, now + 10 * SECOND)
    assert later.state is State.PROGRESSING
    assert later.failure
    assert later.failure.reason is FailureReason.INGRESS
    assert "controller's log" in later.message


@pytest.mark.parametrize("kind", ["deployments", "replica_sets", "service"])
def test_a_namespace_that_is_being_deleted_is_detected_by_refused_objects(kind: str) -> None:
    observed, now = serving_model()
    words = "unable to create new content in namespace {} because it is being terminated"

    def refused(obj: Any, namespace: str) -> Any:
        reported = {"type": "x", "status": "True", "message": words.format(namespace)}
        return {**obj, "status": {**obj["status"], "conditions": [reported]}}

    def seen(namespace: str) -> ObservedObjects:
        if kind == "service":
            return replace(observed, service=refused(observed.service, namespace))
        objects = tuple(refused(o, namespace) for o in getattr(observed, kind))
        return replace(observed, **{kind: objects})

    assert verdict(seen("models"), now).state is State.DELETING
    assert verdict(seen("another"), now).state is not State.DELETING


def edited(image: str) -> tuple[ObservedObjects, datetime]:
    """A model's rollout whose pods are being replaced, by others with this image."""
    observed, now = serving_model()
    [old] = observed.replica_sets
    [deployment] = observed.deployments
    template = deployment["spec"]["template"]
    [container] = template["spec"]["containers"]
    containers = [{**container, "image": image}]
    changed: Any = merged(template, {"spec": {"containers": containers}})
    newer = {
        **old,
        "metadata": {**old["metadata"], "uid": "newer", "name": f"{name_of(old)}-2"},
        "spec": {**old["spec"], "template": changed},
        "status": {},
    }
    rolling = {
        **deployment,
        "spec": {**deployment["spec"], "template": changed},
        "status": {**deployment["status"], "replicas": 2},
    }
    [pod] = observed.pods
    owner = {**pod["metadata"]["ownerReferences"][0], "uid": "newer"}
    waits = {"state": waiting("ImagePullBackOff", "not found"), "name": "kserve-container"}
    new_pod = merged(
        pod,
        {
            "metadata": {"uid": "new", "name": "new", "ownerReferences": [owner]},
            "status": {
                "conditions": [],
                "containerStatuses": [{**waits, "image": image, "restartCount": 0}],
            },
        },
    )
    return replace(
        observed,
        deployments=(rolling,),
        replica_sets=(old, newer),
        pods=(pod, new_pod),
    ), now


def test_an_image_that_a_serving_runtimes_edit_broke_is_not_blamed_on_the_service() -> None:
    decision = verdict(*edited("no/such:image"))
    assert decision.state is State.DEGRADED
    assert decision.failure
    assert decision.failure.reason is FailureReason.IMAGE_PULL
    runtime = "kserve-sklearnserver"
    assert decision.message.startswith(f"the serving runtime {runtime} was changed")
    assert decision.failure.remedy.startswith(f"correct the serving runtime {runtime}")


def test_a_first_rollouts_image_of_a_serving_runtime_is_corrected_there() -> None:
    observed, now = edited("no/such:image")
    first = replace(observed, replica_sets=observed.replica_sets[1:], pods=observed.pods[1:])
    decision = verdict(first, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.message.startswith("the image no/such:image cannot be pulled")
    assert "kserve-sklearnserver names the image" in decision.failure.remedy


def test_pods_that_a_deploy_replaced_are_no_edit_of_a_serving_runtime() -> None:
    observed, now = edited("no/such:image")
    old, newer = observed.replica_sets
    annotations = {"modelservice.dev/rollout": "of the Deploy before"}
    before = merged(old, {"spec": {"template": {"metadata": {"annotations": annotations}}}})
    decision = verdict(replace(observed, replica_sets=(before, newer)), now)
    assert decision.message.startswith("the image no/such:image cannot be pulled")


def test_the_last_writer_of_the_spec_is_named_and_of_one_second_each() -> None:
    observed, now = serving()
    service = dict(observed.service)
    assert last_spec_writer(managers_of(service).all) == "modelservice"

    def wrote(manager: str, at: datetime, what: str = "f:spec") -> dict[str, Any]:
        return {"manager": manager, "time": stamp(at), "fieldsV1": {what: {}}}

    def writer(*later: dict[str, Any]) -> str:
        fields = [*service["metadata"]["managedFields"], *later]
        return last_spec_writer(managers_of({"metadata": {"managedFields": fields}}).all)

    later, last = wrote("kubectl-edit", now), wrote("argocd", now)
    assert writer(later) == "kubectl-edit"
    assert writer(later, last) == "argocd or kubectl-edit"
    assert writer(wrote("labeller", now, "f:metadata")) == "modelservice"
    assert writer(wrote("status", now) | {"subresource": "status"}) == "modelservice"
    assert last_spec_writer(()) == ""


def test_a_mode_that_is_not_followed_is_pending() -> None:
    observed, now = serving()
    knative = with_service(observed, {"status": {"deploymentMode": "Knative"}})
    decision = verdict(replace(knative, deployments=(), knative_followed=False), now)
    assert decision.state is State.PENDING
    assert "Knative is not followed" in decision.message
