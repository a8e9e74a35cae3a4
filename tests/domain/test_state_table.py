"""The state table itself: which row speaks, and what can never be told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from server.domain.rollout.facts import ComponentFacts, Facts, Problem, RemainingObjects
from server.domain.rollout.failures import failure_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.state_table import Decision, decide
from server.domain.rollout.status import (
    Component,
    ComponentStatus,
    FailureReason,
    InferenceServiceStatus,
    State,
)
from server.domain.service.container_text import HELD_BACK, status_without_container_text

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ROLLOUT = Rollout("uid", 3)
AGO = NOW - timedelta(hours=1)
CONTAINER_TEXT = "password hunter2"

READY_COMPONENT = ComponentFacts(
    ComponentStatus(Component.PREDICTOR, 1, 1, 1),
    present=True,
    applied=True,
    scaled=True,
    complete=True,
    completed_at=AGO,
    available=1,
    started_at=AGO,
)
READY_FACTS = Facts(
    ROLLOUT, NOW, AGO, (READY_COMPONENT,), reconciled=True, ready=True, ingress_ready=True
)


def problem(
    reason: FailureReason = FailureReason.IMAGE_PULL,
    since: datetime = AGO,
    tolerated: timedelta | None = timedelta(0),
) -> Problem:
    message = f"because of {reason}: {CONTAINER_TEXT}"
    return Problem(failure_of(reason, message, container_text=CONTAINER_TEXT), since, tolerated)


def facts(**changes: object) -> Facts:
    """A READY service with these facts of its component or its own changed."""
    own = {k: v for k, v in changes.items() if k in Facts.__slots__}
    of_component = {k: v for k, v in changes.items() if k not in own}
    component = replace(READY_COMPONENT, **of_component)  # type: ignore[arg-type]
    return replace(READY_FACTS, **{"components": (component,), **own})  # type: ignore[arg-type]


def state(**changes: object) -> State:
    return decide(facts(**changes)).state


def reason(decision: Decision) -> FailureReason | None:
    return decision.failure.reason if decision.failure else None


def test_a_finished_rollout_that_kserve_calls_ready_is_ready() -> None:
    assert state() is State.READY


LATE = {"ready_timeout": 60 * SECOND, "written_at": NOW - 60 * SECOND, "completed_at": None}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"complete": False}, State.DEGRADED),
        ({"complete": False, "available": 0}, State.FAILED),
        ({"applied": False, "present": False, "available": 0, "started_at": None}, State.PENDING),
        ({"complete": False, "started_at": None}, State.PROGRESSING),
        ({"complete": False, "available": 0, "was_ready": True}, State.PROGRESSING),
        ({}, State.READY),
        ({"complete": False, "ready_once": True}, State.PROGRESSING),
        ({"complete": False, "started_at": NOW - 59 * SECOND}, State.PROGRESSING),
        ({"complete": False, "time_resolution": SECOND}, State.PROGRESSING),
        ({"complete": False, "available": 0, "stop_asked": True}, State.PROGRESSING),
        ({"applied": False, "available": 0, "unsupported_mode": "ModelMesh"}, State.PENDING),
        ({"complete": False, "deleting": True}, State.DELETING),
    ],
)
def test_a_rollout_that_is_under_way_fails_at_its_ready_timeout(
    seen: dict[str, object], expected: State
) -> None:
    decision = decide(facts(**{**LATE, **seen}))
    assert decision.state is expected
    if expected in (State.FAILED, State.DEGRADED):
        assert decision.failure
        assert decision.failure.rollout_id == ROLLOUT.id
        assert "ready_timeout of 60 s" in decision.message
    else:
        assert "ready_timeout" not in decision.message


def test_a_rollout_whose_pods_nobody_asks_for_fails_by_no_time_and_names_the_controller() -> None:
    ignored = {"reconciled": False, "applied": False, "present": False, "available": 0}
    decision = decide(facts(**LATE, **ignored, started_at=None))
    assert (decision.state, reason(decision)) == (State.PENDING, FailureReason.NO_CONTROLLER)


def test_the_cause_of_a_late_rollout_is_the_problem_that_is_known_by_then() -> None:
    late = {**LATE, "complete": False, "available": 0}
    decision = decide(facts(**late))
    assert reason(decision) is FailureReason.PROGRESS_DEADLINE
    assert decision.failure
    assert decision.failure.first_seen_time == NOW
    named = problem(FailureReason.UNSCHEDULABLE, since=NOW - SECOND, tolerated=60 * SECOND)
    decision = decide(facts(**late, problems=(named,)))
    assert decision.state is State.FAILED
    assert reason(decision) is FailureReason.UNSCHEDULABLE


@pytest.mark.parametrize("why", FailureReason)
@pytest.mark.parametrize("tolerated", [None, 0 * SECOND])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("available", [0, 1])
def test_a_containers_text_is_held_back_from_the_status(
    why: FailureReason, tolerated: timedelta | None, late: bool, available: int
) -> None:
    written_at = NOW - (60 if late else 30) * SECOND
    seen = {**LATE, "written_at": written_at, "complete": False, "available": available}
    decision = decide(facts(**seen, problems=(problem(why, tolerated=tolerated),)))
    assert CONTAINER_TEXT in decision.message
    assert HELD_BACK in held_back(decision)
    assert CONTAINER_TEXT not in held_back(decision)


def held_back(decision: Decision) -> str:
    status = InferenceServiceStatus(decision.state, decision.message, failure=decision.failure)
    return str(status_without_container_text(status))


def test_before_its_ready_timeout_a_rollout_is_looked_at_again_at_that_time() -> None:
    early = {**LATE, "complete": False, "written_at": NOW - 50 * SECOND}
    decision = decide(facts(**early))
    assert (decision.state, decision.recheck_at) == (State.PROGRESSING, NOW + 10 * SECOND)


def test_rows_are_tried_in_order() -> None:
    everything = {
        "deleting": True,
        "stop_asked": True,
        "stopped": True,
        "reconciled": False,
        "applied": False,
    }
    assert state(**everything) is State.DELETING
    assert state(**{**everything, "deleting": False}) is State.STOPPED
    assert state(**{**everything, "deleting": False, "stop_asked": False}) is State.PENDING


def test_a_service_in_a_namespace_that_is_being_deleted_is_deleting_and_says_so() -> None:
    for seen in ({}, {"reconciled": False, "applied": False}, {"complete": False, "available": 0}):
        decision = decide(facts(**seen, namespace_deleting=True))
        assert decision.state is State.DELETING
        assert "namespace is being deleted" in decision.message


def test_why_pods_are_replaced_that_nobody_deployed_stands_before_how_far_they_are() -> None:
    why = "the serving runtime x was changed, which replaces the pods"
    decision = decide(facts(complete=False, completed_at=None, replaced_by=why))
    assert decision.state is State.PROGRESSING
    assert decision.message.startswith(f"{why}; predictor: 1 replicas wanted")


def test_a_refusal_counts_only_two_seconds_later_and_only_while_it_is_not_applied() -> None:
    fresh = problem(FailureReason.NO_RUNTIME, since=NOW - SECOND)
    stands = problem(FailureReason.NO_RUNTIME, since=NOW - 2 * SECOND)
    assert state(applied=False, refusal=fresh) is State.PROGRESSING
    assert decide(facts(applied=False, refusal=fresh)).recheck_at == NOW + SECOND
    assert state(applied=False, refusal=stands) is State.DEGRADED
    assert state(applied=False, refusal=stands, available=0) is State.FAILED
    assert state(refusal=stands) is State.READY


def test_a_refusal_that_may_pass_is_named_and_fails_the_rollout_once_it_has_lasted() -> None:
    since = NOW - 2 * SECOND
    named = replace(problem(FailureReason.RECONCILE_FAILED, since=since), tolerated=30 * SECOND)
    decision = decide(facts(applied=False, refusal=named))
    assert (decision.state, reason(decision)) == (
        State.PROGRESSING,
        FailureReason.RECONCILE_FAILED,
    )
    assert decision.recheck_at == NOW + 28 * SECOND
    assert state(applied=False, refusal=named, available=0) is State.PENDING
    lasting = replace(named, since=NOW - 30 * SECOND)
    assert state(applied=False, refusal=lasting) is State.DEGRADED
    assert state(applied=False, refusal=lasting, available=0) is State.FAILED


def test_a_refusal_is_told_where_kserve_has_given_no_verdict_yet() -> None:
    stands = problem(FailureReason.INVALID_SPEC)
    decision = decide(
        facts(reconciled=False, applied=False, present=False, available=0, refusal=stands)
    )
    assert (decision.state, reason(decision)) == (State.FAILED, FailureReason.INVALID_SPEC)


def test_not_applied_is_progressing_only_where_something_serves() -> None:
    assert state(applied=False) is State.PROGRESSING
    assert state(applied=False, available=0) is State.PENDING
    assert state(applied=False, present=False, available=0) is State.PENDING


def test_a_component_that_is_not_there_yet_does_not_take_away_what_serves() -> None:
    transformer = ComponentFacts(ComponentStatus(Component.TRANSFORMER))
    added = replace(READY_FACTS, components=(READY_COMPONENT, transformer))
    assert decide(added).state is State.PROGRESSING
    refused = replace(added, refusal=problem())
    assert decide(refused).state is State.DEGRADED


def test_updates_that_are_disabled_degrade_only_what_is_not_applied() -> None:
    decision = decide(facts(applied=False, updates_disabled=True))
    assert (decision.state, reason(decision)) == (State.DEGRADED, FailureReason.UPDATES_DISABLED)
    assert state(updates_disabled=True) is State.READY


def test_zero_replicas_wanted_is_stopped_and_says_so() -> None:
    decision = decide(facts(scaled_to_zero=True, available=0))
    assert (decision.state, reason(decision)) == (State.STOPPED, FailureReason.SCALED_TO_ZERO)


@pytest.mark.parametrize("late", [{}, {**LATE, "completed_at": None}])
def test_scaled_to_zero_is_on_its_way_until_the_last_pod_is_gone(late: dict[str, object]) -> None:
    decision = decide(facts(**late, scaled_to_zero=True, available=0, pods=1, complete=False))
    assert (decision.state, reason(decision)) == (State.PROGRESSING, FailureReason.SCALED_TO_ZERO)
    assert "waiting for its pods to be gone" in decision.message


def test_a_first_rollout_waits_for_kserve_and_for_every_part_of_row_nine() -> None:
    for short in (
        {"scaled": False},
        {"complete": False},
        {"ready": False},
        {"stable_at": NOW + SECOND},
        {"available": 0, "recently_restarted": 1},
    ):
        assert state(completed_at=None, **short) is State.PROGRESSING, short


def test_complete_once_a_scale_up_leaves_it_ready_whatever_kserve_says() -> None:
    assert state(ready=False, complete=False) is State.READY
    assert state(ready=False, complete=False, scaled=False) is State.PROGRESSING
    assert state(ready=False, complete=False, ingress_ready=False) is State.PROGRESSING


def test_complete_just_now_it_waits_five_seconds_for_kserve_to_agree() -> None:
    just_now = {"ready": False, "completed_at": NOW - SECOND}
    assert state(**just_now) is State.PROGRESSING
    assert decide(facts(**just_now)).recheck_at == NOW + 4 * SECOND
    assert state(ready=False, completed_at=NOW - 5 * SECOND) is State.READY


def test_once_told_ready_it_stays_so_while_kserve_lags_behind_a_scale_up() -> None:
    up_again = {"ready": False, "completed_at": NOW - SECOND}
    assert state(**up_again) is State.PROGRESSING
    assert state(**up_again, was_ready=True) is State.READY
    assert state(**up_again, was_ready=True, ingress_ready=False) is State.PROGRESSING
    assert state(**up_again, was_ready=True, complete=False, scaled=False) is State.PROGRESSING


def test_where_all_else_is_done_pinned_traffic_degrades_it_and_never_before() -> None:
    pinned = failure_of(FailureReason.TRAFFIC_PINNED, "0 % by kubectl-patch")
    for done in ({}, {"ready": False, "complete": False}):
        decision = decide(facts(**done, pinned=pinned))
        assert (decision.state, reason(decision)) == (State.DEGRADED, FailureReason.TRAFFIC_PINNED)
        assert decision.failure
        assert decision.failure.rollout_id == ROLLOUT.id
    for unfinished in ({"ready": False, "completed_at": None}, {"applied": False}):
        assert state(**unfinished, pinned=pinned) is State.PROGRESSING
    failing = (problem(FailureReason.CRASH_LOOP),)
    worse = decide(facts(complete=False, problems=failing, pinned=pinned))
    assert reason(worse) is FailureReason.CRASH_LOOP


def test_complete_once_its_failing_pods_degrade_it_while_something_is_available() -> None:
    failing = (problem(FailureReason.CRASH_LOOP),)
    assert state(complete=False, problems=failing) is State.DEGRADED
    assert state(complete=False, problems=failing, available=0) is State.FAILED


def test_complete_once_and_gone_it_has_ten_seconds_to_come_back() -> None:
    gone = {"complete": False, "available": 0}
    assert state(**gone, unavailable_since=NOW - 9 * SECOND) is State.PROGRESSING
    decision = decide(facts(**gone, unavailable_since=NOW - 10 * SECOND))
    assert (decision.state, reason(decision)) == (State.FAILED, FailureReason.NOT_ANSWERING)


def test_new_pods_that_fail_are_degraded_over_older_ones_and_failed_without() -> None:
    failing = {"complete": False, "completed_at": None, "problems": (problem(),)}
    assert state(**failing) is State.DEGRADED
    assert state(**failing, available=0) is State.FAILED


def test_what_may_yet_pass_is_named_and_fails_when_its_time_is_up() -> None:
    waits = problem(FailureReason.UNSCHEDULABLE, NOW - 59 * SECOND, timedelta(seconds=60))
    unfinished = {"complete": False, "completed_at": None, "available": 0, "problems": (waits,)}
    named = decide(facts(**unfinished))
    assert (named.state, reason(named)) == (State.PROGRESSING, FailureReason.UNSCHEDULABLE)
    assert named.recheck_at == NOW + SECOND
    assert state(**unfinished, now=NOW + SECOND) is State.FAILED


def test_what_fails_comes_before_what_may_pass() -> None:
    passing = problem(FailureReason.CRASH_LOOP, tolerated=None)
    failing = problem(FailureReason.QUOTA)
    decision = decide(
        facts(complete=False, completed_at=None, available=0, problems=(passing, failing))
    )
    assert reason(decision) is FailureReason.QUOTA


def test_every_failure_names_the_rollout_that_has_it() -> None:
    decision = decide(facts(complete=False, problems=(problem(),)))
    assert decision.failure
    assert decision.failure.rollout_id == ROLLOUT.id
    assert decision.message == decision.failure.message


moments = st.integers(-900, 900).map(lambda s: NOW + s * SECOND)
past = st.integers(-900, 0).map(lambda s: NOW + s * SECOND)
counts = st.integers(0, 3)
problems = st.builds(
    problem,
    st.sampled_from(FailureReason),
    past,
    st.none() | st.integers(0, 120).map(lambda s: s * SECOND),
)
component_fields = {
    "present": st.booleans(),
    "applied": st.booleans(),
    "scaled": st.booleans(),
    "complete": st.booleans(),
    "completed_at": st.none() | past,
    "scaled_to_zero": st.booleans(),
    "pods": counts,
    "available": counts,
    "recently_restarted": counts,
    "unavailable_since": st.none() | past,
    "started_at": st.none() | past,
    "ready_once": st.booleans(),
    "stable_at": st.none() | moments,
    "problems": st.lists(problems, max_size=2).map(tuple),
    "pinned": st.none() | st.just(failure_of(FailureReason.TRAFFIC_PINNED, "pinned")),
    "recheck_at": st.none() | moments,
}
service_fields = {
    "written_at": past,
    "deleting": st.booleans(),
    "stop_asked": st.booleans(),
    "stopped": st.booleans(),
    "pods_left": counts,
    "reconciled": st.booleans(),
    "ready": st.booleans(),
    "ingress_ready": st.booleans(),
    "was_ready": st.booleans(),
    "ready_timeout": st.none() | st.integers(1, 900).map(lambda s: s * SECOND),
    "namespace_deleting": st.booleans(),
    "updates_disabled": st.booleans(),
    "refusal": st.none() | problems,
    "recheck_at": st.none() | moments,
    "remaining": st.none()
    | st.builds(
        RemainingObjects,
        past,
        st.just("left"),
        st.sampled_from(["", "x"]),
        st.sampled_from([15 * SECOND, 60 * SECOND]),
    ),
}
# A READY service with any few of its facts changed, so that every row is met.
any_component = st.fixed_dictionaries({}, optional=component_fields).map(
    lambda changes: replace(READY_COMPONENT, **changes)
)
any_facts = st.builds(
    lambda components, changes: replace(READY_FACTS, components=components, **changes),
    st.lists(any_component, min_size=1, max_size=3).map(tuple),
    st.fixed_dictionaries({}, optional=service_fields)
    | st.fixed_dictionaries({}, optional={"ready": st.booleans(), "ingress_ready": st.booleans()}),
)


@given(any_facts)
def test_there_is_always_a_verdict(seen: Facts) -> None:
    assert decide(seen).state in State


@given(any_facts)
def test_no_row_leaves_a_containers_text_in_what_is_held_back(seen: Facts) -> None:
    assert CONTAINER_TEXT not in held_back(decide(seen))


@pytest.mark.parametrize("state", State)
def test_every_state_is_among_what_is_drawn(state: State) -> None:
    drawn = settings(phases=[Phase.generate], max_examples=2000, database=None)
    assert find(any_facts, lambda seen: decide(seen).state is state, settings=drawn)


@given(any_facts)
def test_ready_is_told_only_of_this_rollout_and_only_where_it_serves(seen: Facts) -> None:
    if decide(seen).state is State.READY:
        assert seen.applied
        assert seen.scaled
        assert seen.serving
        assert not seen.pinned
        confirmed = seen.ready and seen.stable and seen.finished
        assert confirmed or seen.completed_at


@given(any_facts)
def test_stopped_is_told_only_where_no_pod_runs_and_none_will(seen: Facts) -> None:
    if decide(seen).state is not State.STOPPED:
        return
    if seen.stop_asked:
        assert seen.stopped
        assert not seen.pods_left
    else:
        assert [c.pods for c in seen.components if c.scaled_to_zero].count(0) > 0
        assert not any(c.pods for c in seen.components if c.scaled_to_zero)


@given(any_facts)
def test_a_service_that_is_to_stop_is_on_its_way_or_stopped_whatever_else_it_is(
    seen: Facts,
) -> None:
    ends = seen.deleting or seen.namespace_deleting
    state = decide(replace(seen, stop_asked=True)).state
    assert state in ((State.DELETING,) if ends else (State.PROGRESSING, State.STOPPED))


@given(any_facts)
def test_degraded_is_told_only_where_something_serves_and_failed_where_nothing_does(
    seen: Facts,
) -> None:
    decision = decide(seen)
    if decision.state is State.DEGRADED:
        assert seen.serving
    if decision.state is State.FAILED:
        assert not seen.serving
    if decision.state in (State.DEGRADED, State.FAILED):
        assert decision.failure
        assert decision.failure.rollout_id == ROLLOUT.id


@given(any_facts)
def test_the_moment_to_look_again_is_in_the_future(seen: Facts) -> None:
    recheck_at = decide(seen).recheck_at
    assert recheck_at is None or recheck_at > seen.now


@given(any_facts, st.integers(0, 900))
def test_nothing_changes_before_the_moment_to_look_again(seen: Facts, seconds: int) -> None:
    decision = decide(seen)
    later = seen.now + seconds * SECOND
    if decision.recheck_at is None or later < decision.recheck_at:
        again = decide(replace(seen, now=later))
        assert (again.state, again.failure) == (decision.state, decision.failure)
