"""A failure of a Knative rollout is kept until the rollout completes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from server.adapters.kserve.status.knative.sticky_failures import StickyFailures
from server.domain.rollout.facts import ComponentFacts, Facts, Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.state_table import decide
from server.domain.rollout.status import Component, ComponentStatus, FailureReason, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PREDICTOR = ComponentFacts(
    ComponentStatus(Component.PREDICTOR),
    present=True,
    applied=True,
    available=1,
    attempt="k1/2",
)


def problem(
    reason: FailureReason, pod: str = "p1", at: int = 0, *, exit_code: int | None = 1
) -> Problem:
    failure = failure_of(
        reason,
        f"{reason} at {at}",
        component=Component.PREDICTOR,
        pod=pod,
        container="kserve-container",
        exit_code=exit_code,
        first_seen_time=NOW + timedelta(seconds=at),
    )
    return Problem(failure, NOW + timedelta(seconds=at))


class Process:
    """Derives the decision on a rollout, as one process does."""

    def __init__(self) -> None:
        self.sticky_failures = StickyFailures()

    def decide_after(self, *problems: Problem, at: int = 0, **changed: object) -> tuple[State, str]:
        component = replace(PREDICTOR, problems=problems, **changed)  # type: ignore[arg-type]
        now = NOW + timedelta(seconds=at)
        facts = Facts(Rollout("s1", 2), now, NOW, (component,), reconciled=True)
        self.sticky_failures = self.sticky_failures.updated(facts)
        decision = decide(self.sticky_failures.added_to(facts))
        failure = decision.failure
        return decision.state, f"{failure.reason} {failure.pod}" if failure else ""


CRASH = FailureReason.CRASH_LOOP


def test_a_failure_stays_when_its_pods_are_gone_and_others_begin_anew() -> None:
    process = Process()
    assert process.decide_after() == (State.PROGRESSING, "")
    assert process.decide_after(problem(CRASH)) == (State.DEGRADED, "CRASH_LOOP p1")
    assert process.decide_after(at=9) == (State.DEGRADED, "CRASH_LOOP p1")
    begun = replace(problem(CRASH, "p2", 20), tolerated=None)
    assert process.decide_after(begun, at=20) == (State.DEGRADED, "CRASH_LOOP p1")
    assert process.decide_after(problem(CRASH, "p2", 30), at=30) == (
        State.DEGRADED,
        "CRASH_LOOP p2",
    )


def test_it_began_when_it_failed_first() -> None:
    process = Process()
    process.decide_after(problem(CRASH))
    process.decide_after(problem(CRASH, "p2", 30), at=30)
    [kept] = process.sticky_failures.by_component.values()
    assert kept.problem.failure.first_seen_time == NOW


def test_a_known_cause_is_kept_at_the_next_pod() -> None:
    process = Process()
    process.decide_after(problem(FailureReason.MODEL_LOAD))
    again = problem(CRASH, "p2", 30)
    assert process.decide_after(again, at=30) == (State.DEGRADED, "MODEL_LOAD p2")
    other = problem(FailureReason.UNSCHEDULABLE, "p3", 60, exit_code=None)
    assert process.decide_after(other, at=60) == (State.DEGRADED, "MODEL_LOAD p2")


def test_a_more_significant_cause_takes_its_place() -> None:
    process = Process()
    process.decide_after(problem(FailureReason.UNSCHEDULABLE, exit_code=None))
    assert process.decide_after(problem(CRASH, "p2", 5), at=5) == (State.DEGRADED, "CRASH_LOOP p2")


def test_the_failure_of_a_revision_does_not_hide_the_pod() -> None:
    process = Process()
    process.decide_after(problem(CRASH))
    assert process.decide_after(problem(CRASH, "", 40), at=40) == (State.DEGRADED, "CRASH_LOOP p1")


def test_a_new_attempt_or_a_completed_one_drops_it() -> None:
    process = Process()
    process.decide_after(problem(CRASH))
    assert process.decide_after(attempt="k1/3") == (State.PROGRESSING, "")
    process.decide_after(problem(CRASH))
    process.decide_after(completed_at=NOW)
    assert not process.sticky_failures.by_component


def test_in_standard_mode_no_failure_is_kept() -> None:
    process = Process()
    process.decide_after(problem(CRASH), attempt="")
    assert process.decide_after(attempt="") == (State.PROGRESSING, "")
