"""Services of Knative mode, as the lab had them, each changed in one point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.state_table import Decision
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.replaying import merged, recording, replay
from tests.adapters.kserve.shown import (
    end,
    ended,
    facts,
    stamp,
    verdict,
    when,
    with_condition,
    with_service,
)

MODIFIED = "the object has been modified; please apply your changes to the latest version"
TRIED = 'dry run failed with pods "dry-run-validationx7k2p" is forbidden: exceeded quota: q'
Change = Callable[[ObservedObjects], ObservedObjects]


def serving() -> tuple[ObservedObjects, datetime]:
    """A rollout that has been READY for a while."""
    observed, now = end("knative/ready")
    return observed, now + timedelta(seconds=60)


def changed(kind: str, patch: dict[str, Any]) -> Change:
    """With a merge patch of every object of the kind."""

    def change(observed: ObservedObjects) -> ObservedObjects:
        objects = tuple(merged(o, patch) for o in getattr(observed, kind))
        return replace(observed, **{kind: objects})

    return change


def conditioned(kind: str, type_: str, **fields: object) -> Change:
    """With a condition of every object of the kind changed, or added."""

    def change(observed: ObservedObjects) -> ObservedObjects:
        def one(obj: Any) -> Any:
            others = [c for c in obj["status"]["conditions"] if c["type"] != type_]
            condition = {"type": type_, "lastTransitionTime": "2026-01-01T00:00:00Z", **fields}
            return merged(obj, {"status": {"conditions": [*others, condition]}})

        return replace(observed, **{kind: tuple(map(one, getattr(observed, kind)))})

    return change


def decision_after(*changes: Change) -> Decision:
    observed, now = serving()
    for change in changes:
        observed = change(observed)
    return verdict(observed, now)


def scaling(annotation: str, value: str) -> dict[str, Any]:
    annotations = {f"autoscaling.knative.dev/{annotation}": value}
    return {"metadata": {"annotations": annotations}}


def test_what_serves_is_ready() -> None:
    assert decision_after().state is State.READY


@pytest.mark.parametrize(
    "change",
    [
        changed("knative_services", {"metadata": {"generation": 2}}),
        conditioned("knative_services", "Ready", status="Unknown", reason="OutOfDate"),
        changed("knative_services", {"status": {"latestCreatedRevisionName": "iris-00002"}}),
        changed("knative_services", {"status": {"traffic": []}}),
        changed("revisions", {"metadata": {"annotations": {"modelservice.dev/rollout": "m0"}}}),
        changed("revisions", scaling("min-scale", "3")),
        changed("revisions", {"metadata": {"labels": {"serving.knative.dev/serviceUID": "x"}}}),
        lambda observed: replace(observed, revisions=()),
    ],
    ids=[
        "its status is about the spec before",
        "it has not looked yet",
        "a newer revision is not ready",
        "no traffic is there",
        "the revision is of another rollout",
        "the revision is of another scaling",
        "the revision is of a service before it",
        "there is no revision",
    ],
)
def test_a_knative_service_that_is_stale_is_not_ready(change: Change) -> None:
    assert decision_after(change).state is State.PROGRESSING


@pytest.mark.parametrize(
    "change",
    [
        changed(
            "knative_services",
            {
                "spec": {
                    "template": {"metadata": {"annotations": {"modelservice.dev/rollout": "m0"}}}
                }
            },
        ),
        changed("knative_services", {"spec": {"template": scaling("min-scale", "0")}}),
        changed("knative_services", {"spec": {"template": scaling("max-scale", "5")}}),
        changed("knative_services", {"spec": {"traffic": [{"revisionName": "x", "percent": 100}]}}),
        lambda o: with_service(o, {"spec": {"predictor": {"minReplicas": 2}}}),
        lambda o: with_service(o, {"spec": {"predictor": {"scaleMetric": "rps"}}}),
        lambda o: with_service(o, {"spec": {"predictor": {"timeout": 30}}}),
    ],
)
def test_what_asks_for_something_else_is_not_applied(change: Change) -> None:
    decision = decision_after(change)
    assert decision.state is State.PROGRESSING
    assert decision.message == "waiting for KServe to apply this rollout"


def test_a_foreign_knative_service_that_kserve_updates_is_named() -> None:
    other = [{"kind": "ConfigMap", "name": "theirs", "uid": "another", "controller": True}]
    decision = decision_after(changed("knative_services", {"metadata": {"ownerReferences": other}}))
    assert decision.failure
    assert decision.failure.reason is FailureReason.RECONCILE_FAILED
    [name] = {s["metadata"]["name"] for s in serving()[0].knative_services}
    assert decision.message.startswith(
        f"the Knative Service {name}, which belongs to ConfigMap/theirs, has the name"
    )


def waiting_for_activation(**active: object) -> list[Change]:
    """A Revision with ready pods that Knative has not activated."""
    deploying = {"status": "Unknown", "reason": "Deploying"}
    return [
        conditioned("knative_services", "Ready", status="Unknown", reason="RevisionMissing"),
        changed("knative_services", {"status": {"latestReadyRevisionName": None}}),
        conditioned("revisions", "Ready", **deploying),
        conditioned("revisions", "ResourcesAvailable", **deploying),
        conditioned("revisions", "Active", status="Unknown", **active),
    ]


def available_since(seconds: int) -> Change:
    def change(observed: ObservedObjects) -> ObservedObjects:
        since = stamp(serving()[1] - timedelta(seconds=seconds))
        return conditioned("deployments", "Available", status="True", lastTransitionTime=since)(
            observed
        )

    return change


def test_an_autoscaling_class_that_nothing_acts_on_is_named_after_a_while() -> None:
    annotations = {"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"}
    changes = [
        changed("revisions", {"metadata": {"annotations": annotations}}),
        *waiting_for_activation(reason="Deploying"),
    ]
    at_first = decision_after(*changes, available_since(29))
    assert (at_first.state, at_first.failure) == (State.PROGRESSING, None)
    assert at_first.recheck_at == serving()[1].replace(microsecond=0) + timedelta(seconds=1)

    later = decision_after(*changes, available_since(31))
    assert later.state is State.PROGRESSING
    assert later.failure
    assert later.failure.reason is FailureReason.NO_CONTROLLER
    assert later.failure.retrying
    assert "autoscaler of the class hpa.autoscaling.knative.dev has not acted" in later.message
    assert "deploy without the annotation autoscaling.knative.dev/class" in later.failure.remedy


def test_a_revision_that_its_autoscaler_holds_back_is_named_with_knatives_message() -> None:
    later = decision_after(
        *waiting_for_activation(reason="Queued", message="buffered"), available_since(31)
    )
    assert later.failure
    assert later.failure.reason is FailureReason.RECONCILE_FAILED
    assert "does not let requests through: Queued: buffered" in later.message


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("Resource iris-1 of type Service is not owned by SKS", "the Service iris-1 has"),
        (
            'There is an existing ServerlessService "iris-1" that we do not own.',
            "the ServerlessService iris-1 has",
        ),
    ],
)
def test_a_name_conflict_of_a_revisions_route_fails_it(words: str, names: str) -> None:
    changes = waiting_for_activation(reason="NotOwned", message=words)
    at_first = decision_after(*changes, available_since(58))
    assert at_first.state is State.PROGRESSING
    assert at_first.failure
    decision = decision_after(*changes, available_since(61))
    assert decision.failure
    assert decision.failure.reason is FailureReason.RECONCILE_FAILED
    assert names in decision.message
    assert decision.state in (State.FAILED, State.DEGRADED)


def test_the_knative_service_of_a_deleted_service_of_that_name_is_not_its_own() -> None:
    other = [{"kind": "InferenceService", "name": "iris", "uid": "another", "controller": True}]
    decision = decision_after(changed("knative_services", {"metadata": {"ownerReferences": other}}))
    assert decision.state is State.PENDING


@pytest.mark.parametrize(("words", "warning"), [(MODIFIED, ""), (TRIED, "exceeded quota: q")])
def test_a_failed_dry_run_of_an_unchanged_knative_service_leaves_it_ready(
    words: str, warning: str
) -> None:
    decision = decision_after(*failing_dry_run(words))
    assert decision.state is State.READY
    assert warning in decision.message
    assert bool(decision.message) == bool(warning)


def test_other_reconcile_errors_make_it_unready() -> None:
    observed, now = serving()
    for change in failing_dry_run("no such thing"):
        observed = change(observed)
    assert not facts(observed, now).ready


def test_a_full_quota_that_blocks_an_update_is_reported() -> None:
    older = changed("knative_services", {"spec": {"template": scaling("max-scale", "5")}})
    observed, now = serving()
    for change in (*failing_dry_run(TRIED), older):
        observed = change(observed)
    decision = verdict(observed, now, lasting=40)
    assert decision.state is State.DEGRADED
    assert decision.failure
    assert decision.failure.reason is FailureReason.QUOTA
    assert "x7k2p" not in decision.message, "another one at each try"


def test_without_pods_the_revisions_conditions_are_reported() -> None:
    decision = decision_after(
        conditioned("knative_services", "Ready", status="False", reason="RevisionFailed"),
        conditioned("revisions", "Ready", status="False"),
        conditioned(
            "revisions",
            "ResourcesAvailable",
            status="False",
            reason="ProgressDeadlineExceeded",
            message="Initial scale was never achieved",
        ),
        lambda observed: replace(observed, pods=()),
    )
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.PROGRESS_DEADLINE
    assert "Initial scale was never achieved" in decision.message


def test_an_image_that_knative_itself_cannot_find_fails_before_there_is_a_pod() -> None:
    decision = decision_after(
        conditioned("knative_services", "Ready", status="False", reason="RevisionFailed"),
        conditioned("revisions", "Ready", status="False"),
        conditioned("revisions", "ContainerHealthy", status="False", reason="ContainerMissing"),
        lambda observed: replace(observed, deployments=(), replica_sets=(), pods=()),
    )
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.IMAGE_PULL


def test_the_deployment_of_an_earlier_revision_of_that_name_has_time_to_be_deleted() -> None:
    observed, now = serving()
    words = 'There is an existing Deployment "iris-predictor-00001-deployment" that we do not own.'
    for change in (
        conditioned("knative_services", "Ready", status="False", reason="RevisionFailed"),
        conditioned("revisions", "Ready", status="False", reason="NotOwned"),
        conditioned(
            "revisions",
            "ResourcesAvailable",
            status="False",
            reason="NotOwned",
            message=words,
            lastTransitionTime=stamp(now),
        ),
        lambda observed: replace(observed, deployments=(), replica_sets=(), pods=()),
    ):
        observed = change(observed)
    first = verdict(observed, now)
    assert first.state is State.PROGRESSING
    assert first.failure
    assert first.failure.reason is FailureReason.RECONCILE_FAILED
    later = verdict(observed, now + timedelta(seconds=60))
    assert later.state is State.FAILED
    assert later.failure
    assert later.failure.reason is FailureReason.RECONCILE_FAILED


@pytest.mark.parametrize("reason", ["Unschedulable", "FailedCreate"])
def test_what_passes_by_itself_does_not_fail_a_revision(reason: str) -> None:
    decision = decision_after(
        conditioned("knative_services", "Ready", status="False", reason="RevisionFailed"),
        conditioned("revisions", "ResourcesAvailable", status="False", reason=reason),
    )
    assert decision.state is State.PROGRESSING
    assert decision.failure is None


def test_a_pod_whose_sidecar_is_not_ready_is_reported_by_the_container_that_it_probes() -> None:
    observed, now = serving()
    [pod] = observed.pods
    statuses = [
        {**s, "ready": s["name"] != "queue-proxy"} for s in pod["status"]["containerStatuses"]
    ]
    since = stamp(now - timedelta(seconds=61))
    unready = [
        {"type": kind, "status": "False", "lastTransitionTime": since}
        for kind in ("Ready", "ContainersReady")
    ]
    status = {"containerStatuses": statuses, "conditions": unready}
    decision = decision_after(
        conditioned("knative_services", "Ready", status="Unknown"),
        changed("pods", {"status": status}),
    )
    assert decision.failure
    assert decision.failure.reason is FailureReason.NOT_ANSWERING
    assert decision.failure.container == "kserve-container"


def test_a_revision_without_a_route_is_reported_after_a_while() -> None:
    observed, now = serving()
    for kind in ("Ready", "RoutesReady"):
        since = stamp(now)
        waits = {"status": "Unknown", "reason": "Uninitialized", "lastTransitionTime": since}
        observed = conditioned("knative_services", kind, **waits)(observed)
    at_once = verdict(observed, now)
    assert at_once.failure is None
    assert at_once.recheck_at
    later = verdict(observed, now + timedelta(seconds=10))
    assert later.state is State.PROGRESSING
    assert later.failure
    assert later.failure.reason is FailureReason.INGRESS
    assert "Uninitialized" in later.message


def at_zero() -> tuple[ObservedObjects, datetime, Any]:
    """A service that nobody calls, some minutes later, with the pod that it last had."""
    up, _ = when("knative/scale_to_zero", ingress_ready)
    idle, now = when(
        "knative/scale_to_zero",
        lambda o: ingress_ready(o) and not o.deployments[0]["status"].get("availableReplicas"),
    )
    return idle, now + timedelta(minutes=5), up.pods[0]


def ingress_ready(observed: ObservedObjects) -> bool:
    return bool(traffic(observed))


def traffic(observed: ObservedObjects) -> list[dict[str, Any]]:
    services = observed.knative_services
    return services[0].get("status", {}).get("traffic", []) if services else []


@pytest.mark.parametrize("gone", [{}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}])
def test_the_remains_of_a_pod_do_not_fail_a_service_at_zero(gone: dict[str, str]) -> None:
    idle, now, pod = at_zero()
    assert verdict(idle, now).state is State.READY
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": stamp(now)}
    ended = {"phase": "Failed", "reason": "Evicted", "conditions": [ready]}
    left = replace(idle, pods=(merged(pod, {"metadata": gone, "status": ended}),))
    for later in (0, 60, 86_400):
        decision = verdict(left, now + timedelta(seconds=later))
        assert decision.state is State.READY, f"after {later} s"


def test_a_start_from_zero_may_take_its_time() -> None:
    idle, now, pod = at_zero()
    loading = [
        {**s, "ready": False, "state": {"running": {"startedAt": stamp(now)}}}
        for s in pod["status"]["containerStatuses"]
    ]
    conditions = [
        {"type": kind, "status": "False", "lastTransitionTime": stamp(now)}
        for kind in ("Ready", "ContainersReady")
    ]
    status = {"containerStatuses": loading, "conditions": conditions}
    observed = replace(idle, pods=(merged(pod, {"status": status}),))
    observed = changed("deployments", {"spec": {"replicas": 1}})(observed)
    for later in (0, 61, 300):
        decision = verdict(observed, now + timedelta(seconds=later))
        assert decision.state is State.READY, f"after {later} s"


def crashing(pod: Any, now: datetime) -> Any:
    """The pod keeps exiting."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    statuses = [
        {**s, "ready": False, "restartCount": 3, "state": waiting, "lastState": end_of_run(1, now)}
        if s["name"] == "kserve-container"
        else s
        for s in pod["status"]["containerStatuses"]
    ]
    unready = [
        {"type": kind, "status": "False", "lastTransitionTime": stamp(now)}
        for kind in ("Ready", "ContainersReady")
    ]
    return merged(pod, {"status": {"containerStatuses": statuses, "conditions": unready}})


def test_a_start_from_zero_that_crashes_fails() -> None:
    idle, now, pod = at_zero()
    observed = replace(idle, pods=(crashing(pod, now),))
    decision = verdict(observed, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.CRASH_LOOP


def test_knatives_old_failure_of_a_revision_is_not_reported_while_its_pod_restarts() -> None:
    observed, now = serving()
    [pod] = observed.pods
    back = {"running": {"startedAt": stamp(now - timedelta(seconds=70))}}
    statuses = [
        {**s, "ready": False, "restartCount": 1, "state": back, "lastState": end_of_run(137, now)}
        if s["name"] == "kserve-container"
        else s
        for s in pod["status"]["containerStatuses"]
    ]
    decision = decision_after(
        changed("pods", {"status": {"containerStatuses": statuses}}),
        conditioned("knative_services", "Ready", status="False", reason="RevisionFailed"),
        conditioned("revisions", "Ready", status="False"),
        conditioned("revisions", "ContainerHealthy", status="False", reason="ExitCode137"),
    )
    assert decision.state is not State.FAILED
    assert not (decision.failure and decision.failure.reason is FailureReason.CRASH_LOOP)


def test_of_revisions_that_share_the_traffic_each_has_to_serve() -> None:
    split = {20, 80}
    observed, now = when(
        "knative/canary",
        lambda o: (
            {t.get("percent") for t in traffic(o)} == split
            and len({t["revisionName"] for t in traffic(o)}) == 2
            and verdict(o, recording("knative/canary").at(12)).state is State.READY
        ),
    )
    now += timedelta(seconds=60)
    assert verdict(observed, now).state is State.READY
    old = observed.pods[0]
    observed = replace(observed, pods=(crashing(old, now), *observed.pods[1:]))
    older, *rest = observed.deployments
    none = merged(older, {"status": {"availableReplicas": None, "readyReplicas": None}})
    decision = verdict(replace(observed, deployments=(none, *rest)), now)
    assert decision.state is State.DEGRADED
    assert decision.failure
    assert decision.failure.reason is FailureReason.CRASH_LOOP


def split(
    percent: int, manager: str, operation: str = "Update"
) -> tuple[ObservedObjects, datetime]:
    """A complete rollout that gets a percent of the requests, by a field of `manager`."""
    generation = {20: 2, 0: 3, 100: 4}[percent]
    history = [one for one in replay("knative/canary") if one.generation == generation]
    seen, now = history[-1].observed, history[-1].facts.now + timedelta(seconds=60)
    ours = seen.service["metadata"]["managedFields"]
    field = {"f:canaryTrafficPercent": {}}
    entries = [without_percent(e) for e in ours]
    theirs = {"f:spec": {"f:predictor": field}}
    entry = {"manager": manager, "operation": operation, "time": stamp(now), "fieldsV1": theirs}
    return with_service(
        seen,
        {
            "metadata": {"managedFields": [*entries, entry]},
            "spec": {"predictor": {"canaryTrafficPercent": percent}},
        },
    ), now


def without_percent(entry: Any) -> Any:
    gone = {"f:spec": {"f:predictor": {"f:canaryTrafficPercent": None}}}
    return merged(entry, {"fieldsV1": gone}) if "f:spec" in entry["fieldsV1"] else entry


@pytest.mark.parametrize("percent", [0, 20])
def test_traffic_that_another_field_manager_keeps_from_a_complete_rollout_degrades_it(
    percent: int,
) -> None:
    decision = verdict(*split(percent, "kubectl-patch"))
    assert decision.state is State.DEGRADED
    assert decision.failure
    assert decision.failure.reason is FailureReason.TRAFFIC_PINNED
    assert decision.message == (
        f"{percent} % of the requests go to this rollout's revision iris-predictor-00002 and"
        f" {100 - percent} % to iris-predictor-00001: the field manager kubectl-patch set"
        f" spec.predictor.canaryTrafficPercent to {percent}"
    )


def test_traffic_that_goes_as_this_rollout_asked_is_ready() -> None:
    assert verdict(*split(20, "modelservice", "Apply")).state is State.READY
    assert verdict(*split(100, "kubectl-patch")).state is State.READY


def test_a_traffic_split_in_a_service_of_others_is_part_of_its_spec() -> None:
    observed, now = split(20, "kubectl-patch")
    entries = [
        {**e, "manager": "kubectl"} if e["manager"] == "modelservice" else e
        for e in observed.service["metadata"]["managedFields"]
    ]
    theirs = with_service(observed, {"metadata": {"managedFields": entries}})
    assert verdict(theirs, now).state is State.READY


def test_a_field_managers_name_is_shown_without_control_characters_and_cut() -> None:
    decision = verdict(*split(0, "evil\n\x1b[31m" + "x" * 200))
    assert "evil??[31m" in decision.message
    assert len(decision.message) < 300


@pytest.mark.parametrize("same", [True, False])
def test_a_revision_of_an_edited_serving_runtime_is_distinguished_from_one_of_a_deploy(
    *, same: bool
) -> None:
    played = recording("knative/rollout")
    at, observed = next(
        (at, o) for at, o in played.states() if o and len(o.revisions) == 2 and len(o.pods) == 2
    )
    marker = observed.revisions[-1]["metadata"]["annotations"]["modelservice.dev/rollout"]
    rolled = {"metadata": {"annotations": {"modelservice.dev/rollout": marker}}}
    if same:
        observed = changed("revisions", rolled)(observed)
    model = {"spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}}}}}
    of_a_model = {**model, "status": {"clusterServingRuntimeName": "teams-own"}}
    decision = verdict(with_service(observed, of_a_model), played.at(at))
    assert decision.state is State.PROGRESSING
    assert decision.message.startswith("the serving runtime teams-own was changed") is same


def end_of_run(code: int, now: datetime) -> dict[str, Any]:
    return ended(code, now - timedelta(seconds=75))


def failing_dry_run(words: str) -> list[Change]:
    """KServe reports the service as not ready with this message."""
    told_so = {"status": "False", "reason": "ReconcileFailed", "message": words}
    return [
        lambda o: with_condition(o, "PredictorReady", **told_so),
        lambda o: with_condition(o, "Ready", **told_so),
    ]
