"""The state table: from what a cluster shows of a service to one state with its cause.

A pure function of `Facts`, the present included. The rows are tried in order and the first that
speaks decides; each row is a function below, in the order of ROWS.
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
# How long a finished rollout waits for the controller to say so too, and how long it must have
# stood before a pod's exit no longer puts it in doubt.
CONFIRMED_AFTER = timedelta(seconds=5)
PROVEN_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict. `recheck_at`: when time alone may change it."""

    state: State
    message: str = ""
    failure: Failure | None = None
    recheck_at: datetime | None = None


def decide(facts: Facts) -> Decision:
    """Give the verdict of the first row that speaks."""
    decision = next(d for row in ROWS if (d := row(facts)) is not None)
    failure = decision.failure and replace(decision.failure, rollout_id=facts.rollout.id)
    message = decision.message or (failure.message if failure else "")
    return Decision(decision.state, message, failure, _recheck_at(facts))


def _deleting(facts: Facts) -> Decision | None:
    """1. Being deleted, whatever else is true."""
    if not facts.deleting:
        return None
    awaited = facts.doing or "waiting for its pods and children to be gone"
    return _going_away(facts, Decision(State.DELETING, awaited))


def _namespace_deleting(facts: Facts) -> Decision | None:
    """1. So too while the mark of deletion has not come as far as the service."""
    if not facts.namespace_deleting:
        return None
    return Decision(State.DELETING, "its namespace is being deleted, and the service with it")


def _stopped(facts: Facts) -> Decision | None:
    """2. Asked to stop: STOPPED once no pod is left."""
    if not facts.stop_asked:
        return None
    if facts.stopped:
        return Decision(State.STOPPED, "stopped by the annotation serving.kserve.io/stop")
    awaited = facts.doing or "stopping: waiting for its pods to be gone"
    return _going_away(facts, Decision(State.PROGRESSING, awaited))


def _going_away(facts: Facts, awaited: Decision) -> Decision:
    """The decision, which names what is left where that takes long, and whose fault that is."""
    remains = facts.remains
    if remains is None or not _due(remains.since + NO_CONTROLLER_AFTER, facts.now):
        return awaited
    left = f"; still there: {remains.left}" if remains.left else ""
    if not remains.idle or not _due(remains.since + remains.idle_after, facts.now):
        seconds = f"{NO_CONTROLLER_AFTER.total_seconds():g} s"
        return replace(awaited, message=f"{awaited.message} for over {seconds}{left}")
    seconds = f"{remains.idle_after.total_seconds():g} s"
    failure = failure_of(
        FailureReason.NO_CONTROLLER,
        f"the {remains.idle} has not acted on this service for {seconds}: none seems to run",
        remedy=f"check the pods of the {remains.idle}",
        first_seen_time=remains.since,
    )
    return replace(awaited, message=f"{failure.message}{left}", failure=failure)


def _unjudged(facts: Facts) -> Decision | None:
    """4. No controller has looked at it. (3, a refused write, never becomes a state.)"""
    if facts.judged or facts.refusal:
        return None
    if facts.now - facts.written_at < NO_CONTROLLER_AFTER:
        return Decision(State.PENDING, "waiting for the KServe controller")
    return Decision(State.PENDING, failure=_no_controller(facts))


def _refused(facts: Facts) -> Decision | None:
    """5. The controller says, after the write, that it cannot apply it, and 2 s later has not."""
    refusal = facts.refusal
    if facts.applied or refusal is None or not _due(refusal.since + REFUSED_AFTER, facts.now):
        return None
    return Decision(_failed_state(facts), failure=refusal.failure)


def _updates_disabled(facts: Facts) -> Decision | None:
    """6. KServe was told to ignore spec updates of a Ready service."""
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
    """7. The controller has not yet taken this rollout up."""
    if facts.applied:
        return None
    if facts.unfollowed_mode:
        message = f"deployment mode {facts.unfollowed_mode} is not followed: see the conditions"
        return Decision(State.PENDING, message)
    state = State.PROGRESSING if facts.serving else State.PENDING
    if facts.unheard and _due(facts.written_at + NO_CONTROLLER_AFTER, facts.now):
        return Decision(state, failure=_no_controller(facts))
    return Decision(state, facts.doing or "waiting for KServe to apply this rollout")


def _scaled_to_zero(facts: Facts) -> Decision | None:
    """8. Nobody wants a replica."""
    if not any(c.zero_wanted for c in facts.components):
        return None
    failure = failure_of(FailureReason.SCALED_TO_ZERO, "scaled to zero replicas")
    return Decision(State.STOPPED, failure=failure)


def _ready(facts: Facts) -> Decision | None:
    """9. Applied, scaled and complete everywhere, Ready says KServe, and nothing keeps exiting."""
    done = facts.finished and facts.ready and facts.steady and facts.serving
    return _done(facts, facts.warning) if done else None


def _completed_once(facts: Facts) -> Decision | None:
    """10. It was complete before: judge by what is available, not by KServe's Ready.

    KServe's Ready turns False during every scale-up (seen for 10.9 s).
    """
    if facts.completed_at is None:
        return None
    worst = _failing(facts)
    if worst:
        return Decision(_failed_state(facts), failure=worst.failure)
    if facts.serving and facts.scaled and facts.routed and _past_doubt(facts, facts.completed_at):
        return _done(facts, _progress(facts), _named(facts))
    seen = facts.serving or any(c.unproven for c in facts.components)
    return None if seen else _nothing_available(facts)


def _done(facts: Facts, message: str, named: Failure | None = None) -> Decision:
    """READY, or DEGRADED where the traffic does not go as this rollout asked."""
    if facts.pinned:
        return Decision(State.DEGRADED, failure=facts.pinned)
    return Decision(State.READY, message, named)


def _past_doubt(facts: Facts, completed_at: datetime) -> bool:
    """Whether only pods are short, or the controller has agreed once, or has had time to object.

    After a scale-up the controller says that it is not ready for a moment longer than it is so.
    """
    if not facts.steady:
        return _due(completed_at + PROVEN_AFTER, facts.now)
    agreed = not facts.finished or facts.was_ready
    return agreed or _due(completed_at + CONFIRMED_AFTER, facts.now)


def _nothing_available(facts: Facts) -> Decision:
    since = [c.unavailable_since for c in facts.components if c.unavailable_since]
    if since and not _due(min(since) + UNAVAILABLE_AFTER, facts.now):
        # A pod that was evicted or deleted by hand is on its way back.
        return Decision(State.PROGRESSING, _progress(facts), _named(facts))
    failure = _named(facts) or failure_of(
        FailureReason.NOT_ANSWERING,
        "no pod of a rollout that was complete is available any more",
        first_seen_time=min(since, default=None),
    )
    return Decision(State.FAILED, failure=failure)


def _row_failing(facts: Facts) -> Decision | None:
    """11. New pods fail: DEGRADED where others, mostly the older rollout's, still answer."""
    worst = _failing(facts)
    return Decision(_failed_state(facts), failure=worst.failure) if worst else None


def _progressing(facts: Facts) -> Decision:
    """12. On its way; what may yet fail is named as the reason."""
    named = _named(facts)
    return Decision(State.PROGRESSING, named.message if named else _progress(facts), named)


ROWS: tuple[Callable[[Facts], Decision | None], ...] = (
    _deleting,
    _namespace_deleting,
    _stopped,
    _unjudged,
    _refused,
    _updates_disabled,
    _not_applied,
    _scaled_to_zero,
    _ready,
    _completed_once,
    _row_failing,
    _progressing,
)


def _due(moment: datetime, now: datetime) -> bool:
    return moment <= now


def _failing(facts: Facts) -> Problem | None:
    problems = facts.all_problems
    return next((p for p in problems if p.fails_at and _due(p.fails_at, facts.now)), None)


def _named(facts: Facts) -> Failure | None:
    return next((p.failure for p in facts.all_problems), None)


def _failed_state(facts: Facts) -> State:
    return State.DEGRADED if facts.serving else State.FAILED


def _no_controller(facts: Facts) -> Failure:
    return failure_of(
        FailureReason.NO_CONTROLLER,
        "no KServe controller has looked at this rollout: none seems to run",
        first_seen_time=facts.written_at + NO_CONTROLLER_AFTER,
    )


def _progress(facts: Facts) -> str:
    """Say what is going on, or how far each component is, in the order of the spec."""
    return facts.doing or "; ".join(
        f"{f'{c.replaced_by}; ' if c.replaced_by else ''}"
        f"{c.shown.component.lower()}: {c.shown.desired_replicas} replicas wanted,"
        f" {c.shown.updated_replicas} of this rollout, {c.available} available"
        + (f", {c.starting.words}" if c.starting else "")
        for c in facts.components
    )


def _recheck_at(facts: Facts) -> datetime | None:
    return min((moment for moment in _thresholds(facts) if moment > facts.now), default=None)


def _thresholds(facts: Facts) -> Iterator[datetime]:
    yield facts.written_at + NO_CONTROLLER_AFTER
    if facts.remains:
        yield facts.remains.since + NO_CONTROLLER_AFTER
        yield facts.remains.since + facts.remains.idle_after
    if facts.refusal:
        yield facts.refusal.since + REFUSED_AFTER
    if facts.completed_at:
        yield facts.completed_at + CONFIRMED_AFTER
        yield facts.completed_at + PROVEN_AFTER
    for component in facts.components:
        if component.unavailable_since:
            yield component.unavailable_since + UNAVAILABLE_AFTER
    looks = [facts.looks_different_at, *(c.looks_different_at for c in facts.components)]
    yield from (moment for moment in looks if moment)
    yield from (c.steady_at for c in facts.components if c.steady_at)
    yield from (p.fails_at for p in facts.all_problems if p.fails_at)
