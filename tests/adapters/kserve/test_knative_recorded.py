"""Lives of services in Knative mode, recorded on the real controllers."""

from __future__ import annotations

import pytest

from server.adapters.kserve.objects import (
    Object,
    get_condition,
    get_list,
    get_map,
    is_condition_true,
)
from server.domain.rollout.rollout_id import End, RolloutStatus, outcome
from server.domain.rollout.status import FailureReason, State, TrafficShare
from tests.adapters.kserve.replaying import (
    KNATIVE_NAMES,
    Report,
    Step,
    Watcher,
    recording,
    replay,
    steps,
)
from tests.adapters.kserve.test_service_status_recorded import UP, failing, failing_over, rolled_out

PENDING, PROGRESSING, READY = State.PENDING, State.PROGRESSING, State.READY
DEGRADED, FAILED, STOPPED, DELETING = State.DEGRADED, State.FAILED, State.STOPPED, State.DELETING

LIVES: dict[str, list[Step]] = {
    "ready": UP,
    "rollout": [*UP, *rolled_out(2)],
    "quick_updates": [*UP, *((n, PROGRESSING, None) for n in range(2, 9)), (8, READY, None)],
    "scaling_alone": [*UP, *rolled_out(2)],
    # At zero it goes on being READY.
    "scale_to_zero": [*UP, *rolled_out(2)],
    "stop": [*UP, UP[1], (1, STOPPED, None), *UP],
    "delete": [*UP, (1, DELETING, None)],
    "canary": [*UP, *rolled_out(2), *rolled_out(3), *rolled_out(4)],
    "transformer": [*UP, *rolled_out(2)],
    "unmanaged": [*UP, *rolled_out(2)],
    # What fails, each by its own reason.
    "image_missing": [*UP[:2], (1, FAILED, FailureReason.IMAGE_PULL)],
    "never_scheduled": failing(FailureReason.UNSCHEDULABLE),
    "refused": [
        UP[0],
        (1, FAILED, FailureReason.INVALID_SPEC),
        (2, PENDING, None),
        *rolled_out(2),
        *failing_over(3, FailureReason.INVALID_SPEC),
    ],
    "update_crashes": [
        *UP,
        (2, PROGRESSING, None),
        (2, PROGRESSING, FailureReason.CRASH_LOOP),
        (2, DEGRADED, FailureReason.CRASH_LOOP),
    ],
    "update_crashes_at_zero": [
        *UP,
        (2, PROGRESSING, None),
        (2, PROGRESSING, FailureReason.CRASH_LOOP),
        (2, DEGRADED, FailureReason.CRASH_LOOP),
    ],
    # Past its deadline, and well after all.
    "slow": [
        *UP[:2],
        (1, FAILED, FailureReason.PROGRESS_DEADLINE),
        (1, PROGRESSING, None),
        (1, READY, None),
    ],
    # A full quota is not a failure of what serves.
    "quota_fills": UP,
    # With a probe that says too much the traffic has moved, and nothing answers any more.
    "lie": [
        *UP,
        *rolled_out(2),
        (2, PROGRESSING, FailureReason.CRASH_LOOP),
        (2, FAILED, FailureReason.CRASH_LOOP),
    ],
}


def life(name: str) -> tuple[Report, ...]:
    return replay(f"knative/{name}")


def test_every_recording_is_replayed() -> None:
    assert sorted(LIVES) == KNATIVE_NAMES


@pytest.mark.parametrize("name", KNATIVE_NAMES)
def test_a_recorded_life_has_these_states(name: str) -> None:
    assert steps(life(name)) == LIVES[name]


@pytest.mark.parametrize("name", KNATIVE_NAMES)
def test_ready_is_reported_only_with_traffic_at_a_ready_revision_of_the_present_spec(
    name: str,
) -> None:
    for one in life(name):
        if one.decision.state is READY:
            asked = images(get_map(one.observed.service, "spec", "predictor"))
            ready = [r for r in one.observed.revisions if is_condition_true(r, "Ready")]
            newest = {r["metadata"]["name"]: images(get_map(r, "spec")) for r in ready}
            predictor = one.status.components[0]
            assert newest.get(predictor.latest_revision) == asked, f"at {one.at} s"
            assert predictor.latest_revision in {s.revision for s in predictor.traffic}


@pytest.mark.parametrize("name", KNATIVE_NAMES)
def test_a_stale_knative_service_is_never_reported_as_ready(name: str) -> None:
    for one in life(name):
        if one.decision.state is READY:
            for service in one.observed.knative_services:
                seen = service["status"]["observedGeneration"]
                assert seen == service["metadata"]["generation"], f"at {one.at} s"
                assert is_condition_true(service, "Ready"), f"at {one.at} s"


@pytest.mark.parametrize("name", sorted(set(KNATIVE_NAMES) - {"delete"}))
def test_a_process_started_later_comes_to_the_same_verdict(name: str) -> None:
    played = recording(f"knative/{name}")
    witness, newcomer = Watcher(played.started), Watcher(played.started)
    for at, observed in played.states():
        assert observed
        witness.look(observed, played.at(at))
    settled = played.at(played.lasted + 35)
    for watcher in (witness, newcomer):
        watcher.look(observed, played.at(played.lasted))
        list(watcher.recheck_until(observed, settled))
    assert newcomer.look(observed, settled).step == witness.look(observed, settled).step


@pytest.mark.parametrize("name", KNATIVE_NAMES)
def test_a_moment_to_look_again_is_always_in_the_future(name: str) -> None:
    for one in life(name):
        assert one.decision.recheck_at is None or one.decision.recheck_at > one.facts.now


@pytest.mark.parametrize(
    ("name", "recreated"), [("update_crashes", 3), ("update_crashes_at_zero", 0)]
)
def test_a_failed_update_over_a_revision_that_serves_stays_degraded_though_its_pods_are_made_anew(
    name: str, recreated: int
) -> None:
    failed = [one for one in life(name) if one.generation == 2]
    first = next(i for i, one in enumerate(failed) if one.decision.state is DEGRADED)
    after = failed[first:]
    pods = {p["metadata"]["uid"] for one in after for p in one.observed.pods if is_new(p)}
    assert len(pods) == 1 + recreated
    assert any(not any(map(is_new, one.observed.pods)) for one in after)
    assert {one.decision.state for one in after} == {DEGRADED}
    assert all(one.status.serving for one in after)
    assert {one.step[2] for one in after} == {FailureReason.CRASH_LOOP}


def test_a_failure_whose_pods_are_gone_keeps_naming_the_last_pod() -> None:
    last = life("update_crashes_at_zero")[-1]
    assert last.status.failure
    assert not any(map(is_new, last.observed.pods))
    assert last.status.failure.pod.startswith("iris-predictor-00002-")
    assert last.status.failure.exit_code == 1
    ended = outcome(last.facts.rollout, RolloutStatus(last.facts.rollout, last.status))
    assert ended
    assert ended.end is End.FAILED


def test_a_failure_is_reported_long_before_knative_reports_it() -> None:
    history = life("image_missing")
    ours = next(one.at for one in history if one.decision.state is FAILED)
    theirs = next(one.at for one in history if knative_reports(one))
    assert theirs - ours > 8


def test_at_zero_a_service_is_ready_and_serves_without_a_pod() -> None:
    at_zero = [one for one in life("scale_to_zero") if one.generation == 1 and was_ready(one)]
    last = at_zero[-1]
    assert not last.observed.pods
    assert last.decision.state is READY
    assert last.status.serving
    assert last.status.components[0].desired_replicas == 0


def test_a_full_quota_is_a_warning_while_the_service_serves() -> None:
    full = [one for one in life("quota_fills") if kserve_fails_dry_run(one)]
    assert len({one.at for one in full}) > 5
    assert {one.decision.state for one in full} == {READY}
    [words] = {one.status.message for one in full}
    assert "exceeded quota" in words
    assert not any(one.status.failure for one in full)


def test_traffic_is_reported_by_revision() -> None:
    shared = [one for one in life("canary") if one.decision.state is READY]
    by_generation = {one.generation: one.status.components[0].traffic for one in shared}
    one, two = "iris-predictor-00001", "iris-predictor-00002"
    assert by_generation[2] == (TrafficShare(two, 20), TrafficShare(one, 80))
    assert by_generation[3] == (TrafficShare(two, 0), TrafficShare(one, 100))
    assert by_generation[4] == (TrafficShare(two, 100),)


def test_a_change_of_scaling_is_ready_only_with_its_own_revision() -> None:
    scaled = [one for one in life("scaling_alone") if one.generation == 2]
    same = {rollout_hash(r) for one in scaled for r in one.observed.revisions}
    assert len(same) == 1
    first = next(one for one in scaled if one.decision.state is READY)
    predictor = first.status.components[0]
    assert predictor.latest_revision == "iris-predictor-00002"
    assert (predictor.desired_replicas, predictor.updated_replicas) == (2, 2)


def images(spec: Object) -> list[str]:
    return [c["image"] for c in get_list(spec, "containers")]


def is_new(pod: Object) -> bool:
    return bool(pod["metadata"]["labels"]["serving.knative.dev/revision"].endswith("-00002"))


def rollout_hash(obj: Object) -> str:
    return str(get_map(obj, "metadata", "annotations")["modelservice.dev/rollout"])


def knative_reports(one: Report) -> bool:
    return any(get_condition(r, "Ready").get("status") == "False" for r in one.observed.revisions)


def was_ready(one: Report) -> bool:
    return any(is_condition_true(r, "Ready") for r in one.observed.revisions)


def kserve_fails_dry_run(one: Report) -> bool:
    ready = get_condition(one.observed.service, "PredictorReady")
    return ready.get("reason") == "ReconcileFailed"
