"""Lives of services, recorded on a real control plane."""

from __future__ import annotations

import pytest

from server.adapters.kserve.objects import Object, get_list, get_map, is_condition_true
from server.domain.rollout.rollout_id import End, RolloutStatus, outcome
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.replaying import NAMES, Report, Step, Watcher, recording, replay, steps

PENDING, PROGRESSING, READY = State.PENDING, State.PROGRESSING, State.READY
DEGRADED, FAILED, STOPPED, DELETING = State.DEGRADED, State.FAILED, State.STOPPED, State.DELETING
UP: list[Step] = [(1, PENDING, None), (1, PROGRESSING, None), (1, READY, None)]


def failing(reason: FailureReason) -> list[Step]:
    """A first rollout that shows its trouble before it fails for it."""
    return [*UP[:2], (1, PROGRESSING, reason), (1, FAILED, reason)]


def rolled_out(generation: int) -> list[Step]:
    return [(generation, PROGRESSING, None), (generation, READY, None)]


def failing_over(generation: int, reason: FailureReason) -> list[Step]:
    """A later rollout that fails while the earlier one serves."""
    return [(generation, PROGRESSING, None), (generation, DEGRADED, reason)]


LIVES: dict[str, list[Step]] = {
    "ready": UP,
    "ready_model": UP,
    "slow": UP,
    "named_predictor": UP,
    "delete": [*UP, (1, DELETING, None)],
    # What fails, each by its own reason.
    "image_missing": [*UP[:2], (1, FAILED, FailureReason.IMAGE_PULL)],
    "crash": failing(FailureReason.CRASH_LOOP),
    "exits_zero": failing(FailureReason.CRASH_LOOP),
    "model_crash": failing(FailureReason.CRASH_LOOP),
    "oom": failing(FailureReason.OUT_OF_MEMORY),
    "init_fails": failing(FailureReason.STORAGE_DOWNLOAD),
    "never_scheduled": failing(FailureReason.UNSCHEDULABLE),
    "pvc_missing": failing(FailureReason.VOLUME),
    "quota": failing(FailureReason.QUOTA),
    "rejected": failing(FailureReason.POD_REJECTED),
    "unknown_format": [UP[0], (1, FAILED, FailureReason.NO_RUNTIME)],
    "unknown_runtime": [UP[0], (1, FAILED, FailureReason.NO_RUNTIME)],
    "bad_scheme": [UP[0], (1, FAILED, FailureReason.STORAGE_SCHEME)],
    "invalid_pod": [UP[0], (1, FAILED, FailureReason.INVALID_SPEC)],
    # One exit is named, and forgiven once the container has stayed up.
    "crash_once": [*UP[:2], (1, PROGRESSING, FailureReason.CRASH_LOOP), UP[2]],
    "lie": [*UP, *failing(FailureReason.CRASH_LOOP)[2:]],
    "corrupt_model": [*UP, *failing(FailureReason.CRASH_LOOP)[2:]],
    # Rollout after rollout.
    "rollout": [*UP, *rolled_out(2)],
    "labels_alone": [*UP, *rolled_out(2)],
    "rollback_slow": [*UP, *rolled_out(2), *rolled_out(3)],
    "rollout_fails": [*UP, *failing_over(2, FailureReason.IMAGE_PULL)],
    "update_bad_scheme": [
        *UP,
        *failing_over(2, FailureReason.STORAGE_SCHEME),
        *failing_over(3, FailureReason.STORAGE_SCHEME),
    ],
    "update_unknown_runtime_then_fix": [
        *UP,
        *failing_over(2, FailureReason.NO_RUNTIME),
        *failing_over(3, FailureReason.NO_RUNTIME),
        *rolled_out(4),
    ],
    "updates_disabled": [*UP, (2, DEGRADED, FailureReason.UPDATES_DISABLED)],
    # Scaling, stopping, losing a pod.
    "scaling_alone": [*UP, *rolled_out(2)],
    "scale_up_fails": [
        *UP,
        *rolled_out(2),
        (2, READY, FailureReason.QUOTA),
        (2, DEGRADED, FailureReason.QUOTA),
    ],
    "scale_to_zero": [
        *UP,
        (1, PROGRESSING, FailureReason.SCALED_TO_ZERO),
        (1, STOPPED, FailureReason.SCALED_TO_ZERO),
        *UP[1:],
    ],
    "stop": [*UP, UP[1], (1, STOPPED, None), *UP],
    "pod_deleted": [*UP, *UP[1:]],
    # What others wrote.
    "managed_edit": [*UP, *rolled_out(2)],
    "unmanaged_container": [*UP, *rolled_out(2)],
    "unmanaged_edits": [
        *UP,
        *rolled_out(2),
        *rolled_out(3),
        *failing_over(4, FailureReason.NO_RUNTIME),
    ],
    # Added with one rollout, removed with the next: what is left is ready as it was.
    "transformer": [*UP, *rolled_out(2), (3, READY, None)],
}


def test_every_recording_is_replayed() -> None:
    assert sorted(LIVES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_life_has_these_states(name: str) -> None:
    assert steps(replay(name)) == LIVES[name]


@pytest.mark.parametrize("name", NAMES)
def test_ready_is_reported_only_with_a_ready_pod_of_the_present_spec(name: str) -> None:
    for one in replay(name):
        if one.decision.state is READY:
            asked = asked_images(one.observed.service)
            assert not asked or asked <= answering_images(one), f"at {one.at} s"


@pytest.mark.parametrize("name", NAMES)
def test_ready_first_comes_after_kserve_says_so(name: str) -> None:
    ready = [one for one in replay(name) if one.decision.state is READY]
    for generation in {one.generation for one in ready}:
        first = next(one for one in ready if one.generation == generation)
        assert is_condition_true(first.observed.service, "Ready") or name in (
            "scale_up_fails",
            "scaling_alone",
        )


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"delete"}))
def test_a_process_started_later_comes_to_the_same_verdict(name: str) -> None:
    """It saw nothing move, so the cluster's own times must tell it what the other one saw."""
    played = recording(name)
    witness, newcomer = Watcher(played.started), Watcher(played.started)
    for at, observed in played.states():
        assert observed
        witness.look(observed, played.at(at))
    newcomer.look(observed, played.at(played.lasted))
    settled = played.at(played.lasted + 35)
    for watcher in (witness, newcomer):
        list(watcher.recheck_until(observed, settled))
    assert newcomer.look(observed, settled).step == witness.look(observed, settled).step


@pytest.mark.parametrize("name", NAMES)
def test_a_moment_to_look_again_is_always_in_the_future(name: str) -> None:
    for one in replay(name):
        assert one.decision.recheck_at is None or one.decision.recheck_at > one.facts.now


def test_a_wait_for_a_failing_rollout_ends_by_its_own_failure() -> None:
    last = replay("rollout_fails")[-1]
    ended = outcome(last.facts.rollout, RolloutStatus(last.facts.rollout, last.status))
    assert ended
    assert ended.end is End.FAILED
    assert ended.failure
    assert ended.failure.reason is FailureReason.IMAGE_PULL
    assert last.status.serving


def test_a_fixing_write_never_fails_for_the_error_before_it() -> None:
    fixed = [one for one in replay("update_unknown_runtime_then_fix") if one.generation == 4]
    still_refused = [
        one for one in fixed if invalid(one.observed.service) and not one.facts.applied
    ]
    assert still_refused
    assert {one.decision.state for one in fixed} == {PROGRESSING, READY}


def test_the_same_error_of_a_second_write_is_reported_although_the_status_never_changed() -> None:
    history = replay("update_unknown_runtime_then_fix")
    second = [one for one in history if one.generation == 3]
    statuses = [one.observed.service["status"]["modelStatus"] for one in second]
    assert all(status == statuses[0] for status in statuses)
    assert second[-1].decision.failure
    assert "still-none" in second[-1].decision.failure.message
    failed = next(one for one in second if one.decision.failure)
    first_move = next(one for one in second if one.observed.events != second[0].observed.events)
    assert failed.at - first_move.at == pytest.approx(2, abs=0.01)


def test_an_earlier_spec_that_comes_back_is_ready_only_with_its_own_pods() -> None:
    """Kubernetes says of such a Deployment, for a moment, that it is complete."""
    back = [one for one in replay("rollback_slow") if one.generation == 3]
    first = next(one for one in back if one.decision.state is READY)
    assert first.at - back[0].at > 5
    deceived = [one for one in back if kubernetes_calls_it_complete(one)]
    assert deceived
    assert {one.decision.state for one in deceived[:1]} == {PROGRESSING}


def test_a_scale_up_of_a_ready_service_stays_ready_though_kserve_is_not() -> None:
    scaled = [one for one in replay("scaling_alone") if one.generation == 2]
    first = next(i for i, one in enumerate(scaled) if one.decision.state is READY)
    after = scaled[first:]
    assert {one.decision.state for one in after} == {READY}
    assert any(not is_condition_true(one.observed.service, "Ready") for one in after)
    assert [c.desired_replicas for c in after[0].status.components] == [3]


def test_a_corrupt_model_that_kserve_calls_ready_and_loaded_is_not_ready() -> None:
    """Recorded on a real node, with KServe's own probe, which asks whether the port is open."""
    after_an_exit = [one for one in replay("corrupt_model") if restarts(one)]
    lies = [one for one in after_an_exit if called_ready_and_loaded(one)]
    assert {restarts(one) for one in lies} == {2, 5}
    assert {one.decision.state for one in lies} == {FAILED}
    assert READY not in {one.decision.state for one in after_an_exit}
    assert not any(one.status.serving for one in after_an_exit)


def test_the_status_has_runtime_addresses_and_counts() -> None:
    status = replay("ready_model")[-1].status
    assert status.serving_runtime == "kserve-sklearnserver"
    assert status.cluster_url == "http://iris-predictor.models.svc.cluster.local"
    assert status.deployment_mode == "Standard"
    [predictor] = status.components
    assert (predictor.desired_replicas, predictor.updated_replicas, predictor.ready_replicas) == (
        1,
        1,
        1,
    )
    assert predictor.latest_revision == "1"
    assert {c.type: c.status for c in status.conditions}["Ready"] == "True"
    assert status.last_transition_time


def test_a_container_has_no_serving_runtime() -> None:
    assert replay("ready")[-1].status.serving_runtime == ""


def test_a_failure_names_pod_container_code_and_restarts() -> None:
    failure = replay("crash")[-1].status.failure
    assert failure
    assert failure.pod.startswith("iris-predictor-")
    assert failure.container == "kserve-container"
    assert failure.exit_code == 1
    assert failure.restart_count >= 1
    assert failure.retrying
    assert failure.remedy
    assert failure.first_seen_time
    assert failure.rollout_id == replay("crash")[-1].facts.rollout.id


def asked_images(service: Object) -> set[str]:
    spec = get_map(service, "spec")
    return {c["image"] for kind in spec for c in get_list(spec, kind, "containers")}


def answering_images(one: Report) -> set[str]:
    return {
        container["image"]
        for pod in one.observed.pods
        if is_condition_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]
        for container in pod["spec"]["containers"]
    }


def restarts(one: Report) -> int:
    statuses = [
        s for pod in one.observed.pods for s in get_list(pod, "status", "containerStatuses")
    ]
    return max((s["restartCount"] for s in statuses), default=0)


def called_ready_and_loaded(one: Report) -> bool:
    service = one.observed.service
    states = get_map(service, "status", "modelStatus", "states")
    return is_condition_true(service, "Ready") and states.get("activeModelState") == "Loaded"


def invalid(service: Object) -> bool:
    return get_map(service, "status", "modelStatus").get("transitionStatus") == "InvalidSpec"


def kubernetes_calls_it_complete(one: Report) -> bool:
    deployment = one.observed.deployments[0]
    status = deployment["status"]
    return (
        status["observedGeneration"] == deployment["metadata"]["generation"]
        and one.facts.applied
        and any(c.get("reason") == "NewReplicaSetAvailable" for c in status["conditions"])
    )
