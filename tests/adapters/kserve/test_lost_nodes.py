"""Pods whose node does not answer, and whose node comes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from server.adapters.kserve.objects import name_of
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.shown import (
    end,
    serving,
    stamp,
    verdict,
    with_deployment,
    with_pod_condition,
    with_pods,
)

SECOND = timedelta(seconds=1)


def test_pods_of_a_node_that_no_longer_answers_name_it() -> None:
    observed, now = serving()
    # As the node's controller leaves them: the kubelet did not write this.
    lost = with_pod_condition(observed, "Ready", status="False", lastTransitionTime=stamp(now))
    decision = verdict(lost, now + 11 * SECOND)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.NODE_LOST
    assert "lab-node" in decision.failure.message


def test_a_pod_that_a_taint_takes_off_a_node_that_answers_fails_nothing_while_it_moves() -> None:
    observed, now = serving()
    words = "Taint manager: deleting due to NoExecute taint"
    taken = {"status": "True", "reason": "DeletionByTaintManager", "message": words}
    moving = with_pod_condition(
        observed, "DisruptionTarget", lastTransitionTime=stamp(now), **taken
    )
    assert verdict(moving, now).state is State.READY
    unready = with_pod_condition(
        with_pods(moving, {"metadata": {"deletionTimestamp": stamp(now)}}),
        "Ready",
        status="False",
        reason="ContainersNotReady",
        lastTransitionTime=stamp(now),
    )
    named = verdict(unready, now + 5 * SECOND)
    assert named.state is State.PROGRESSING
    assert named.failure
    assert named.failure.reason is FailureReason.NODE_LOST
    assert words in named.failure.message
    assert "does not answer" not in named.failure.message
    unheard = with_pod_condition(moving, "Ready", status="False", lastTransitionTime=stamp(now))
    assert verdict(unheard, now).state is State.FAILED


def test_of_replicas_on_several_nodes_those_on_a_lost_one_degrade_the_service() -> None:
    observed, now = end("scaling_alone")
    [lost, *others] = observed.pods
    unheard = replace(observed, pods=(lost,))
    unheard = with_pod_condition(unheard, "Ready", status="False", lastTransitionTime=stamp(now))
    short = with_deployment(observed, {"status": {"availableReplicas": 2}})
    decision = verdict(replace(short, pods=(*unheard.pods, *others)), now)
    assert decision.state is State.DEGRADED
    assert decision.failure
    assert decision.failure.reason is FailureReason.NODE_LOST
    assert decision.failure.pod == name_of(lost)


def test_a_node_that_comes_back_brings_its_services_back() -> None:
    observed, now = serving()
    lost = with_pod_condition(observed, "Ready", status="False", lastTransitionTime=stamp(now))
    assert verdict(lost, now).state is State.FAILED
    back = with_pod_condition(lost, "Ready", status="True", lastTransitionTime=stamp(now))
    assert verdict(back, now).state is State.READY


def test_a_lost_node_explains_that_no_other_has_room() -> None:
    observed, now = serving()
    lost = with_pod_condition(observed, "Ready", status="False", lastTransitionTime=stamp(now))
    leaving = with_pods(lost, {"metadata": {"deletionTimestamp": stamp(now)}})
    waits = with_pods(observed, {"metadata": {"uid": "new", "name": "new"}, "status": None})
    unscheduled = with_pod_condition(waits, "PodScheduled", status="False", message="0/1 nodes")
    decision = verdict(replace(observed, pods=(*unscheduled.pods, *leaving.pods)), now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.NODE_LOST
