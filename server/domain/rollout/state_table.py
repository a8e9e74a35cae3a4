"""The state table: decide the state of a service, and its cause, from its facts.

A pure function of `Facts`, which include the present time. The rows are tried in order; the first
that returns a decision wins. Each row is a function below, in the order of ROWS. docs/status.md has
the behaviour of KServe behind each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from server.domain.rollout.facts import Facts, Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Failure, FailureReason, State

NO_CONTROLLER_AFTER = timedelta(seconds=15)
REFUSED_AFTER = timedelta(seconds=2)
UNAVAILABLE_AFTER = timedelta(seconds=10)
# A finished rollout waits so long for the controller to agree.
CONFIRMED_AFTER = timedelta(seconds=5)
# A pod's exit no longer puts a rollout in doubt that was complete for so long.
PROVEN_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Decision:
    """The state of a service. `recheck_at`: when time alone may change it.

    A text of a container in `message` is the failure's `container_text`, at the end.
    """

    state: State
    message: str = ""
    failure: Failure | None = None
    recheck_at: datetime | None = None


def decide(facts: Facts) -> Decision:
    """Return the decision of the first row that has one."""
    decision = _in_time(facts, next(d for row in ROWS if (d := row(facts)) is not None))
    failure = decision.failure and replace(decision.failure, rollout_id=facts.rollout.id)
    message = decision.message or (failure.message if failure else "")
    return Decision(decision.state, message, failure, _recheck_at(facts))


def _in_time(facts: Facts, decision: Decision) -> Decision:
    """Fail a rollout that is under way after its ready_timeout.

    The cause is the problem that is known by then. The rollout goes on and may be READY later.
    """
    ready_by, timeout = facts.ready_by, facts.ready_timeout
    if ready_by is None or timeout is None or not _due(ready_by, facts.now):
        return decision
    under_way = decision.state in (State.PENDING, State.PROGRESSING)
    ending = facts.stop_asked or facts.scaled_to_zero
    if not under_way or ending or facts.unsupported_mode:
        return decision
    late = f"the rollout was not ready within its ready_timeout of {timeout.total_seconds():.0f} s"
    failure = decision.failure
    deadline = failure is not None and failure.reason is FailureReason.PROGRESS_DEADLINE
    # A deadline's failure with a container's text is the cause that the message then ends with.
    if failure is None or (deadline and not failure.container_text):
        failure = failure_of(FailureReason.PROGRESS_DEADLINE, late, first_seen_time=ready_by)
    message = decision.message or failure.message
    return Decision(_failed_state(facts), f"{late}: {message}", failure)


def _deleting(facts: Facts) -> Decision | None:
    """1. It is being deleted, regardless of all else."""
    if not facts.deleting:
        return None
    awaited = facts.activity or "waiting for its pods and children to be gone"
    return _going_away(facts, Decision(State.DELETING, awaited))


def _namespace_deleting(facts: Facts) -> Decision | None:
    """1. Its namespace is being deleted, and the service's own deletion has not begun yet."""
    if not facts.namespace_deleting:
        return None
    return Decision(State.DELETING, "its namespace is being deleted, and the service with it")


def _stopped(facts: Facts) -> Decision | None:
    """2. It is to stop: STOPPED once no pod runs, and none will."""
    if not facts.stop_asked:
        return None
    if facts.stopped and not facts.pods_left:
        return Decision(State.STOPPED, "stopped by the annotation serving.kserve.io/stop")
    awaited = facts.activity or "stopping: waiting for its pods to be gone"
    return _going_away(facts, Decision(State.PROGRESSING, awaited))


def _going_away(facts: Facts, awaited: Decision) -> Decision:
    """Name the remaining objects, and an idle controller, if a deletion or stop takes long."""
    remaining = facts.remaining
    if remaining is None or not _due(remaining.since + NO_CONTROLLER_AFTER, facts.now):
        return awaited
    left = f"; remaining: {remaining.description}" if remaining.description else ""
    idle = remaining.idle_controller
    if not idle or not _due(remaining.since + remaining.idle_after, facts.now):
        seconds = f"{NO_CONTROLLER_AFTER.total_seconds():g} s"
        return replace(awaited, message=f"{awaited.message} for over {seconds}{left}")
    seconds = f"{remaining.idle_after.total_seconds():g} s"
    failure = failure_of(
        FailureReason.NO_CONTROLLER,
        f"the {idle} has not acted on this service for {seconds}: none seems to run",
        remedy=f"check the pods of the {idle}",
        first_seen_time=remaining.since,
    )
    return replace(awaited, message=f"{failure.message}{left}", failure=failure)


def _not_reconciled(facts: Facts) -> Decision | None:
    """4. No controller has reconciled it. (3, a refused write, never becomes a state.)"""
    if facts.reconciled or facts.refusal:
        return None
    if facts.now - facts.written_at < NO_CONTROLLER_AFTER:
        return Decision(State.PENDING, "waiting for the KServe controller")
    return Decision(State.PENDING, failure=_no_controller(facts))


def _refused(facts: Facts) -> Decision | None:
    """5. For 2 s the controller has reported that it cannot apply this write."""
    refusal = facts.refusal
    if facts.applied or refusal is None or not _due(refusal.since + REFUSED_AFTER, facts.now):
        return None
    if refusal.fails_at and _due(refusal.fails_at, facts.now):
        return Decision(_failed_state(facts), failure=refusal.failure)
    return Decision(_unapplied_state(facts), failure=refusal.failure)


def _updates_disabled(facts: Facts) -> Decision | None:
    """6. An annotation makes KServe ignore spec updates of a Ready service."""
    if facts.applied or not facts.updates_disabled:
        return None
    return Decision(
        _failed_state(facts),
        failure=failure_of(
            FailureReason.UPDATES_DISABLED,
            "serving.kserve.io/disable-auto-update is true: KServe ignores this update",
        ),
    )


def _not_applied(facts: Facts) -> Decision | None:
    """7. The controller has not applied this rollout yet."""
    if facts.applied:
        return None
    if facts.unsupported_mode:
        message = f"deployment mode {facts.unsupported_mode} is not followed: see the conditions"
        return Decision(State.PENDING, message)
    state = _unapplied_state(facts)
    if facts.controller_silent and _due(facts.written_at + NO_CONTROLLER_AFTER, facts.now):
        return Decision(state, failure=_no_controller(facts))
    return Decision(state, facts.activity or "waiting for KServe to apply this rollout")


def _scaled_to_zero(facts: Facts) -> Decision | None:
    """8. It is scaled to zero by hand: STOPPED once no pod runs."""
    if not facts.scaled_to_zero:
        return None
    failure = failure_of(FailureReason.SCALED_TO_ZERO, "scaled to zero replicas")
    if any(c.pods for c in facts.components if c.scaled_to_zero):
        message = f"{failure.message}: waiting for its pods to be gone"
        return Decision(State.PROGRESSING, message, failure)
    return Decision(State.STOPPED, failure=failure)


def _ready(facts: Facts) -> Decision | None:
    """9. All is applied, scaled, complete and stable, and KServe reports Ready."""
    done = facts.finished and facts.ready and facts.stable and facts.serving
    return _done(facts, facts.warning) if done else None


def _completed_once(facts: Facts) -> Decision | None:
    """10. It was complete before: decide by availability, not by KServe's Ready.

    KServe's Ready turns False during every scale-up (seen for 10.9 s).
    """
    if facts.completed_at is None:
        return None
    worst = _failing(facts)
    if worst:
        return Decision(_failed_state(facts), failure=worst.failure)
    if (
        facts.serving
        and facts.scaled
        and facts.ingress_ready
        and _counts_as_ready(facts, facts.completed_at)
    ):
        return _done(facts, _progress(facts), _first_problem(facts))
    answers = facts.serving or any(c.recently_restarted for c in facts.components)
    return None if answers else _nothing_available(facts)


def _done(facts: Facts, message: str, problem: Failure | None = None) -> Decision:
    """Return READY, or DEGRADED if traffic is pinned to another rollout."""
    if facts.pinned:
        return Decision(State.DEGRADED, failure=facts.pinned)
    return Decision(State.READY, message, problem)


def _counts_as_ready(facts: Facts, completed_at: datetime) -> bool:
    """Report whether a complete rollout counts as READY although not all is ready now.

    It does if only pods are missing, if the controller has agreed once, or if it has had time to
    object. After a scale-up the controller reports not ready for a moment too long.
    """
    if not facts.stable:
        return _due(completed_at + PROVEN_AFTER, facts.now)
    agreed = not facts.finished or facts.was_ready
    return agreed or _due(completed_at + CONFIRMED_AFTER, facts.now)


def _nothing_available(facts: Facts) -> Decision:
    since = [c.unavailable_since for c in facts.components if c.unavailable_since]
    if since and not _due(min(since) + UNAVAILABLE_AFTER, facts.now):
        # An evicted or manually deleted pod is being replaced.
        return Decision(State.PROGRESSING, _progress(facts), _first_problem(facts))
    failure = _first_problem(facts) or failure_of(
        FailureReason.NOT_ANSWERING,
        "no pod of a rollout that was complete is available any more",
        first_seen_time=min(since, default=None),
    )
    return Decision(State.FAILED, failure=failure)


def _new_pods_failing(facts: Facts) -> Decision | None:
    """11. New pods fail: DEGRADED if others, mostly of the older rollout, still answer."""
    worst = _failing(facts)
    return Decision(_failed_state(facts), failure=worst.failure) if worst else None


def _progressing(facts: Facts) -> Decision:
    """12. It is progressing; a problem that may still fail it is reported."""
    problem = _first_problem(facts)
    return Decision(State.PROGRESSING, problem.message if problem else _progress(facts), problem)


ROWS: tuple[Callable[[Facts], Decision | None], ...] = (
    _deleting,
    _namespace_deleting,
    _stopped,
    _not_reconciled,
    _refused,
    _updates_disabled,
    _not_applied,
    _scaled_to_zero,
    _ready,
    _completed_once,
    _new_pods_failing,
    _progressing,
)


def _due(moment: datetime, now: datetime) -> bool:
    return moment <= now


def _failing(facts: Facts) -> Problem | None:
    problems = facts.all_problems
    return next((p for p in problems if p.fails_at and _due(p.fails_at, facts.now)), None)


def _first_problem(facts: Facts) -> Failure | None:
    return next((p.failure for p in facts.all_problems), None)


def _failed_state(facts: Facts) -> State:
    return State.DEGRADED if facts.serving else State.FAILED


def _unapplied_state(facts: Facts) -> State:
    return State.PROGRESSING if facts.serving else State.PENDING


def _no_controller(facts: Facts) -> Failure:
    return failure_of(
        FailureReason.NO_CONTROLLER,
        "no KServe controller has looked at this rollout: none seems to run",
        first_seen_time=facts.written_at + NO_CONTROLLER_AFTER,
    )


def _progress(facts: Facts) -> str:
    """Describe the present activity, or the progress of each component in the order of the spec."""
    return facts.activity or "; ".join(
        f"{f'{c.replaced_by}; ' if c.replaced_by else ''}"
        f"{c.shown.component.lower()}: {c.shown.desired_replicas} replicas wanted,"
        f" {c.shown.updated_replicas} of this rollout, {c.available} available"
        + (f", {c.starting.description}" if c.starting else "")
        for c in facts.components
    )


def _recheck_at(facts: Facts) -> datetime | None:
    return min((moment for moment in _thresholds(facts) if moment > facts.now), default=None)


def _thresholds(facts: Facts) -> Iterator[datetime]:
    yield facts.written_at + NO_CONTROLLER_AFTER
    if facts.ready_by:
        yield facts.ready_by
    if facts.remaining:
        yield facts.remaining.since + NO_CONTROLLER_AFTER
        yield facts.remaining.since + facts.remaining.idle_after
    if facts.refusal:
        yield facts.refusal.since + REFUSED_AFTER
        yield from filter(None, [facts.refusal.fails_at])
    if facts.completed_at:
        yield facts.completed_at + CONFIRMED_AFTER
        yield facts.completed_at + PROVEN_AFTER
    for component in facts.components:
        if component.unavailable_since:
            yield component.unavailable_since + UNAVAILABLE_AFTER
    rechecks = [facts.recheck_at, *(c.recheck_at for c in facts.components)]
    yield from (moment for moment in rechecks if moment)
    yield from (c.stable_at for c in facts.components if c.stable_at)
    yield from (p.fails_at for p in facts.all_problems if p.fails_at)
