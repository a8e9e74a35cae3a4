"""A service whose deletion or stop takes long."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import (
    end,
    serving,
    stamp,
    verdict,
    with_condition,
    with_pods,
    with_service,
)

SECOND = timedelta(seconds=1)
KSERVES = "inferenceservice.finalizers"
FOREGROUND = "foregroundDeletion"
FOREIGN = "example.com/keep"
LATE = 15 * SECOND


def deleted(*finalizers: str, mode: str = "standard") -> tuple[ObservedObjects, datetime]:
    """A service that has served, at the moment at which its deletion is asked for."""
    observed, now = serving() if mode == "standard" else end("knative/ready")
    now = (now + timedelta(minutes=5)).replace(microsecond=0)
    mark = {"deletionTimestamp": stamp(now), "finalizers": list(finalizers)}
    return with_service(observed, {"metadata": mark}), now


def without_children(observed: ObservedObjects) -> ObservedObjects:
    return ObservedObjects(observed.service)


def with_children_marked(observed: ObservedObjects, at: datetime) -> ObservedObjects:
    """With every child on its way out, as the garbage collector leaves them."""
    mark = {"metadata": {"deletionTimestamp": stamp(at), "finalizers": [FOREGROUND]}}

    def marked(objects: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(merged(o, mark) for o in objects)

    return replace(
        observed,
        deployments=marked(observed.deployments),
        replica_sets=marked(observed.replica_sets),
        autoscalers=marked(observed.autoscalers),
        knative_services=marked(observed.knative_services),
        revisions=marked(observed.revisions),
    )


@pytest.mark.parametrize("mode", ["standard", "knative"])
def test_a_foreign_finalizer_is_named_once_15_seconds_have_passed(mode: str) -> None:
    observed, now = deleted(FOREIGN, mode=mode)
    held = without_children(observed)
    first = verdict(held, now)
    assert (first.state, first.recheck_at) == (State.DELETING, now + LATE)
    assert FOREIGN not in first.message
    late = verdict(held, now + LATE)
    assert (late.state, late.failure) == (State.DELETING, None)
    assert f"remaining: finalizer {FOREIGN}" in late.message


@pytest.mark.parametrize("mode", ["standard", "knative"])
def test_a_finalizer_of_kserve_that_stays_means_that_no_controller_runs(mode: str) -> None:
    observed, now = deleted(KSERVES, FOREGROUND, mode=mode)
    unattended = without_children(observed)
    assert verdict(unattended, now + 14 * SECOND).failure is None
    late = verdict(unattended, now + LATE)
    assert late.state is State.DELETING
    assert late.failure
    assert late.failure.reason is FailureReason.NO_CONTROLLER
    assert late.failure.retrying
    assert f"finalizer {KSERVES}" in late.message
    assert FOREGROUND not in late.message


@pytest.mark.parametrize("mode", ["standard", "knative"])
def test_children_that_nobody_deletes_mean_that_the_garbage_collector_is_idle(mode: str) -> None:
    observed, now = deleted(FOREGROUND, mode=mode)
    late = verdict(observed, now + LATE)
    assert late.failure is None
    assert "not being deleted" in late.message
    assert late.recheck_at
    assert late.recheck_at <= now + 60 * SECOND
    later = verdict(observed, now + 60 * SECOND)
    assert later.failure
    assert later.failure.reason is FailureReason.NO_CONTROLLER
    assert "kube-controller-manager" in later.failure.message
    collected = verdict(with_children_marked(observed, now), now + 60 * SECOND)
    assert collected.failure is None


def test_children_are_named_by_kind_and_those_with_finalizers_first() -> None:
    observed, now = deleted(FOREGROUND)
    going = with_children_marked(observed, now)
    held = merged(going.replica_sets[0], {"metadata": {"finalizers": [FOREIGN, FOREGROUND]}})
    late = verdict(replace(going, replica_sets=(held,)), now + LATE)
    name = observed.deployments[0]["metadata"]["name"]
    before, between, after = late.message.partition(f"(finalizer {FOREIGN})")
    assert between
    assert f"ReplicaSet {held['metadata']['name']}" in before
    assert f"Deployment {name}" in after
    assert f"HorizontalPodAutoscaler {name}" in after


def test_pods_are_named_with_the_time_by_which_they_are_to_end() -> None:
    observed, now = deleted(FOREGROUND)
    going = with_children_marked(observed, now)
    ends = stamp(now + 30 * SECOND)
    ending = with_pods(going, {"metadata": {"deletionTimestamp": ends}})
    late = verdict(ending, now + LATE)
    [pod] = ending.pods
    words = f"Pod {pod['metadata']['name']} (to end by {ends} on node {pod['spec']['nodeName']})"
    assert words in late.message


def test_the_first_of_many_pods_are_named_and_the_others_counted() -> None:
    observed, now = deleted(FOREGROUND)
    [pod] = observed.pods
    pods = tuple(merged(pod, {"metadata": {"name": f"p{n}", "uid": f"{n}"}}) for n in range(1000))
    many = replace(without_children(observed), pods=pods)
    late = verdict(many, now + LATE)
    assert "and 995 more" in late.message
    assert len(late.message) < 1000


def test_children_of_kinds_that_are_not_followed_are_named_if_no_others_remain() -> None:
    observed, now = deleted(FOREGROUND)
    late = verdict(without_children(observed), now + LATE)
    assert late.failure is None
    assert "does not follow" in late.message


def test_a_stop_that_takes_long_names_the_pods_and_a_controller_that_does_not_act() -> None:
    observed, now = serving()
    now = now.replace(microsecond=0)
    fields = {"f:metadata": {"f:annotations": {"f:serving.kserve.io/stop": {}}}}
    entry = {"manager": "kubectl", "time": stamp(now), "fieldsV1": fields}
    entries = [*observed.service["metadata"]["managedFields"], entry]
    asked = {"annotations": {"serving.kserve.io/stop": "true"}, "managedFields": entries}
    stopping = with_service(observed, {"metadata": asked})
    first = verdict(stopping, now)
    assert (first.state, first.failure) == (State.PROGRESSING, None)
    assert first.recheck_at
    assert first.recheck_at <= now + LATE
    idle = verdict(stopping, now + LATE)
    assert idle.state is State.PROGRESSING
    assert idle.failure
    assert idle.failure.reason is FailureReason.NO_CONTROLLER
    assert f"Pod {observed.pods[0]['metadata']['name']}" in idle.message
    slow = verdict(with_condition(stopping, "Stopped", status="True"), now + LATE)
    assert slow.failure is None
    assert "remaining: Pod" in slow.message
