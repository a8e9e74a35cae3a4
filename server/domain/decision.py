"""The state table: from what a cluster shows of a service to one state with its cause.

A pure function of `Facts`, the present included. The rows are tried in order and the first that
speaks decides; each row is a function below, in the order of ROWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from server.domain.rollout import Rollout
from server.domain.status import ComponentStatus, Failure, FailureReason, State

NO_CONTROLLER_AFTER = timedelta(seconds=15)
REFUSED_AFTER = timedelta(seconds=2)
UNAVAILABLE_AFTER = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the new pods, or with making them.

    It fails the rollout once it has stood for `tolerated`; None: it may yet pass, and is only
    named.
    """

    failure: Failure
    since: datetime
    tolerated: timedelta | None = timedelta(0)

    @property
    def fails_at(self) -> datetime | None:
        """When it stops being tolerated."""
        return None if self.tolerated is None else self.since + self.tolerated


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """What the cluster shows of one component that the spec names.

    `applied`: its workload is made from this rollout's spec. `scaled`: replica counts and bounds
    are as asked. `complete`: all its pods are new, available and enough. `completed_once`: so it
    was, for this rollout. `old_serving`: pods of an older rollout are available. `steady_at`: when
    the new pods will have survived their last container exit; None if none exited.
    `unavailable_since`: since when no pod at all is available. `problems`: most telling first.
    """

    shown: ComponentStatus
    applied: bool = False
    scaled: bool = False
    complete: bool = False
    completed_once: bool = False
    zero_wanted: bool = False
    old_serving: bool = False
    available: int = 0
    unavailable_since: datetime | None = None
    steady_at: datetime | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cluster shows of a service, read at `now`.

    `written_at`: when this generation was written. `judged`: the controller has given a verdict
    at all. `ready`: it says Ready of the service and of every component. `refusal`: evidence, newer
    than the write, that the controller cannot carry the spec out.
    """

    rollout: Rollout
    now: datetime
    written_at: datetime
    components: tuple[ComponentFacts, ...]
    deleting: bool = False
    stop_asked: bool = False
    stopped: bool = False
    judged: bool = False
    ready: bool = False
    updates_disabled: bool = False
    refusal: Problem | None = None

    @property
    def applied(self) -> bool:
        """Every component's workload is made from this rollout's spec."""
        return all(c.applied for c in self.components)

    @property
    def old_serving(self) -> bool:
        """An older rollout still answers."""
        return any(c.old_serving for c in self.components)

    @property
    def serving(self) -> bool:
        """Every component has a pod that answers, of whatever rollout."""
        return bool(self.components) and all(c.available > 0 for c in self.components)

    @property
    def steady(self) -> bool:
        """No new pod is recovering from an exit."""
        return all(c.steady_at is None or c.steady_at <= self.now for c in self.components)

    @property
    def problems(self) -> list[Problem]:
        """Every component's problems, most telling first."""
        return [p for c in self.components for p in c.problems]


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
    if facts.deleting:
        return Decision(State.DELETING, "waiting for its pods and children to be gone")
    return None


def _stopped(facts: Facts) -> Decision | None:
    """2. Asked to stop: STOPPED once no pod is left."""
    if not facts.stop_asked:
        return None
    if facts.stopped:
        return Decision(State.STOPPED, "stopped by the annotation serving.kserve.io/stop")
    return Decision(State.PROGRESSING, "stopping: waiting for its pods to be gone")


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
    return Decision(_failed_state(facts.old_serving), failure=refusal.failure)


def _updates_disabled(facts: Facts) -> Decision | None:
    """6. KServe was told to ignore spec updates of a Ready service."""
    if facts.applied or not facts.updates_disabled:
        return None
    return Decision(
        State.DEGRADED,
        failure=Failure(
            FailureReason.UPDATES_DISABLED,
            "serving.kserve.io/disable-auto-update is true: KServe ignores this update",
            "remove the annotation, then deploy again",
        ),
    )


def _not_applied(facts: Facts) -> Decision | None:
    """7. The controller has not yet taken this rollout up."""
    if facts.applied:
        return None
    state = State.PROGRESSING if facts.old_serving else State.PENDING
    return Decision(state, "waiting for KServe to apply this rollout")


def _scaled_to_zero(facts: Facts) -> Decision | None:
    """8. Nobody wants a replica."""
    if not any(c.zero_wanted for c in facts.components):
        return None
    return Decision(
        State.STOPPED,
        failure=Failure(
            FailureReason.SCALED_TO_ZERO,
            "scaled to zero replicas",
            "raise scaling.min_replicas, or scale it up again",
        ),
    )


def _ready(facts: Facts) -> Decision | None:
    """9. Applied, scaled and complete everywhere, Ready says KServe, and nothing keeps exiting."""
    done = all(c.applied and c.scaled and c.complete for c in facts.components)
    return Decision(State.READY) if done and facts.ready and facts.steady else None


def _completed_once(facts: Facts) -> Decision | None:
    """10. It was complete before: judge by what is available, not by KServe's Ready.

    KServe's Ready turns False during every scale-up (seen for 10.9 s).
    """
    if not all(c.completed_once for c in facts.components):
        return None
    worst = _failing(facts) or (None if facts.steady else next(iter(facts.problems), None))
    if facts.serving:
        if worst or not facts.steady:
            return Decision(State.DEGRADED, _progress(facts), worst.failure if worst else None)
        return Decision(State.READY, _progress(facts))
    return _nothing_available(facts, _failing(facts))


def _nothing_available(facts: Facts, worst: Problem | None) -> Decision:
    if worst:
        return Decision(State.FAILED, failure=worst.failure)
    since = [c.unavailable_since for c in facts.components if c.unavailable_since]
    if since and not _due(min(since) + UNAVAILABLE_AFTER, facts.now):
        # A pod that was evicted or deleted by hand is on its way back.
        return Decision(State.PROGRESSING, _progress(facts), _named(facts))
    failure = _named(facts) or Failure(
        FailureReason.NOT_ANSWERING, "no pod of a rollout that was complete is available any more"
    )
    return Decision(State.FAILED, failure=failure)


def _row_failing(facts: Facts) -> Decision | None:
    """11. New pods fail: DEGRADED where the older rollout still answers for them."""
    worst = _failing(facts)
    if worst is None:
        return None
    covered = all(c.old_serving for c in facts.components if _fails(c.problems, facts.now))
    return Decision(_failed_state(covered), failure=worst.failure)


def _progressing(facts: Facts) -> Decision:
    """12. On its way; what may yet fail is named as the reason."""
    named = _named(facts)
    return Decision(State.PROGRESSING, named.message if named else _progress(facts), named)


ROWS: tuple[Callable[[Facts], Decision | None], ...] = (
    _deleting,
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


def _fails(problems: tuple[Problem, ...] | list[Problem], now: datetime) -> list[Problem]:
    return [p for p in problems if p.fails_at is not None and _due(p.fails_at, now)]


def _failing(facts: Facts) -> Problem | None:
    return next(iter(_fails(facts.problems, facts.now)), None)


def _named(facts: Facts) -> Failure | None:
    return facts.problems[0].failure if facts.problems else None


def _failed_state(covered: bool) -> State:
    return State.DEGRADED if covered else State.FAILED


def _no_controller(facts: Facts) -> Failure:
    return Failure(
        FailureReason.NO_CONTROLLER,
        "no KServe controller has looked at this service: none seems to run",
        "check the pods of the KServe controller",
        retrying=True,
        first_seen_time=facts.written_at + NO_CONTROLLER_AFTER,
    )


def _progress(facts: Facts) -> str:
    """Say how far each component is, in the order of the spec."""
    return ", ".join(
        f"{c.shown.component.lower()}: {c.available} of {c.shown.desired_replicas} replicas"
        f" available, {c.shown.updated_replicas} of this rollout"
        for c in facts.components
    )


def _recheck_at(facts: Facts) -> datetime | None:
    return min((moment for moment in _thresholds(facts) if moment > facts.now), default=None)


def _thresholds(facts: Facts) -> Iterator[datetime]:
    yield facts.written_at + NO_CONTROLLER_AFTER
    if facts.refusal:
        yield facts.refusal.since + REFUSED_AFTER
    for component in facts.components:
        if component.steady_at:
            yield component.steady_at
        if component.unavailable_since:
            yield component.unavailable_since + UNAVAILABLE_AFTER
    yield from (p.fails_at for p in facts.problems if p.fails_at)
