"""Facts of components, on recorded services, each changed in one point."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from server.adapters.kserve.objects import is_condition_true
from server.adapters.kserve.status.components import parsed_deployments, workload_of
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.status import Component, FailureReason, State
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import (
    end,
    ended,
    facts,
    serving,
    stamp,
    verdict,
    waiting,
    when,
    with_condition,
    with_container,
    with_deployment,
    with_deployment_condition,
    with_pods,
    with_service,
)


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


def test_a_canary_with_the_same_labels_and_rollout_hash_is_not_the_predictor() -> None:
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


def test_a_deployment_keeps_its_updated_replicas_through_an_edit_that_leaves_its_template() -> None:
    observed, now = serving()
    annotated = with_deployment(observed, {"metadata": {"generation": 9}})
    assert [c.shown.updated_replicas for c in facts(annotated, now).components] == [1]
    assert "1 of this rollout" in verdict(annotated, now).message
    other = with_deployment_condition(annotated, "Progressing", message='ReplicaSet "other"')
    assert [c.shown.updated_replicas for c in facts(other, now).components] == [0]


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


def test_new_pods_are_those_of_the_present_template_even_without_a_rollout_hash() -> None:
    observed, _ = when("unmanaged_container", lambda o: len(o.pods) == 2)
    assert len(observed.replica_sets) == 2
    [deployment] = parsed_deployments(observed)
    workload = workload_of(deployment, observed)
    [pod] = workload.new_pods
    assert pod.obj["spec"]["containers"][0]["image"] == "lab/slow:3s"
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


@pytest.mark.parametrize(
    ("asked", "applied"),
    [
        ({"type": "Recreate"}, False),
        ({"type": "RollingUpdate"}, True),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, False),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}, True),
    ],
)
def test_a_rollout_is_applied_once_the_deployment_has_its_strategy(
    asked: dict[str, object], *, applied: bool
) -> None:
    observed, now = serving()
    asking = with_service(observed, {"spec": {"predictor": {"deploymentStrategy": asked}}})
    assert facts(asking, now).applied is applied
    state = State.READY if applied else State.PROGRESSING
    assert verdict(asking, now).state is state


def _without_room(strategy: str) -> tuple[ObservedObjects, datetime]:
    """An update whose pod no node has taken for two minutes, beside the older one."""
    observed, now = when("rollout", lambda o: len(o.pods) == 2)
    [deployment] = parsed_deployments(observed)
    [new] = workload_of(deployment, observed).new_pods
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/1 nodes",
        "lastTransitionTime": stamp(now),
    }
    waiting_pod = merged(new.obj, {"status": {"conditions": [condition], "containerStatuses": []}})
    pods = tuple(waiting_pod if p is new.obj else p for p in observed.pods)
    asked = {"spec": {"strategy": {"type": strategy}}}
    return with_deployment(replace(observed, pods=pods), asked), now + timedelta(minutes=2)


def test_where_an_older_rollout_takes_the_room_the_remedy_is_to_stop_it_first() -> None:
    observed, now = _without_room("RollingUpdate")
    decision = verdict(observed, now)
    assert decision.state is State.DEGRADED
    assert decision.failure
    assert decision.failure.reason is FailureReason.UNSCHEDULABLE
    assert "TYPE_RECREATE" in decision.failure.remedy
    [old] = [p for p in observed.pods if is_condition_true(p, "Ready")]
    alone = tuple(p for p in observed.pods if p is not old)
    decision = verdict(replace(observed, pods=alone), now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert "TYPE_RECREATE" not in decision.failure.remedy


def test_a_pod_that_waited_beside_the_older_one_has_its_time_again_once_that_is_to_end() -> None:
    observed, now = _without_room("Recreate")
    # The strategy was deployed just now.
    written = [
        {**entry, "time": stamp(now)} for entry in observed.service["metadata"]["managedFields"]
    ]
    fresh = with_service(observed, {"metadata": {"managedFields": written}})
    decision = verdict(fresh, now)
    assert decision.state is State.PROGRESSING
    assert decision.failure
    assert decision.failure.reason is FailureReason.UNSCHEDULABLE
    later = verdict(fresh, now + timedelta(seconds=60))
    assert later.state is State.DEGRADED


def test_without_an_autoscaler_the_replicas_themselves_must_be_as_asked() -> None:
    observed, now = serving()
    none = {"serving.kserve.io/autoscalerClass": "none"}
    asked = {"metadata": {"annotations": none}, "spec": {"predictor": {"minReplicas": 0}}}
    observed = replace(with_service(observed, asked), autoscalers=())
    assert not facts(observed, now).scaled
    at_zero = with_deployment(observed, {"spec": {"replicas": 0}})
    for seen, expected in (
        (at_zero, State.PROGRESSING),
        (replace(at_zero, pods=()), State.STOPPED),
    ):
        decision = verdict(seen, now)
        assert decision.state is expected
        assert decision.failure
        assert decision.failure.reason is FailureReason.SCALED_TO_ZERO


def test_a_pod_that_is_being_deleted_is_not_available() -> None:
    observed, now = serving()
    going = with_pods(observed, {"metadata": {"deletionTimestamp": stamp(now)}})
    assert facts(going, now).components[0].available == 0


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


def _both_ready(observed: ObservedObjects) -> bool:
    ready = [is_condition_true(observed.service, f"{c}Ready") for c in ("Predictor", "Transformer")]
    pods_ready = [is_condition_true(p, "Ready") for p in observed.pods]
    return all(ready) and len(pods_ready) == 2 and all(pods_ready)
