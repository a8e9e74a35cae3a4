"""The failure that a Knative rollout has shown, which stays told until it completes.

Knative deletes pods that fail and makes new ones, about every deadline, with counts that begin at
0; at zero it makes none at all. What they failed of is not over with that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.facts import ComponentFacts, Facts, Problem
from server.domain.rollout.failures import rank_of
from server.domain.rollout.status import Component, Failure


@dataclass(frozen=True, slots=True)
class _Held:
    attempt: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class StickyFailures:
    """What has failed of a service so far, by component."""

    by_component: Mapping[Component, _Held] = field(default_factory=dict)

    def updated(self, facts: Facts) -> StickyFailures:
        """Take in what fails now, and let go what has completed or was begun anew."""
        now = {c.shown.component: self._next(c, facts) for c in facts.components}
        return StickyFailures({component: held for component, held in now.items() if held})

    def redacted(self, gate_of: Callable[[Failure], OutputGate]) -> StickyFailures:
        """The same, without what a container wrote that its gate holds back by now."""
        return StickyFailures(
            {kind: _withheld(held, gate_of) for kind, held in self.by_component.items()}
        )

    def added_to(self, facts: Facts) -> Facts:
        """The facts, with what is held among them. To be asked after `updated` with them."""
        return replace(facts, components=tuple(map(self._with_held, facts.components)))

    def _next(self, component: ComponentFacts, facts: Facts) -> _Held | None:
        if not component.attempt or not component.applied or component.completed_at:
            return None
        held = self.by_component.get(component.shown.component)
        before = held.problem if held and held.attempt == component.attempt else None
        fails = (p for p in component.problems if p.fails_at and p.fails_at <= facts.now)
        problem = _joined(before, next(fails, None))
        return _Held(component.attempt, problem) if problem else None

    def _with_held(self, component: ComponentFacts) -> ComponentFacts:
        held = self.by_component.get(component.shown.component)
        if held is None:
            return component
        return replace(component, problems=(held.problem, *component.problems))


def _withheld(held: _Held, gate_of: Callable[[Failure], OutputGate]) -> _Held:
    problem = held.problem
    held_back = gate_of(problem.failure).held_back if problem.container_text else ""
    return replace(held, problem=problem.with_container_text(held_back)) if held_back else held


def _joined(before: Problem | None, now: Problem | None) -> Problem | None:
    """What to tell of what failed before and what fails now: the more telling cause, at the pod
    that shows it now."""
    if before is None or now is None:
        return before or now
    if rank_of(now.failure.reason) < rank_of(before.failure.reason):
        return now
    if not now.failure.pod:
        return before  # the words of a Revision whose pods are gone
    if now.failure.reason is before.failure.reason or _same_end(before.failure, now.failure):
        # A pod made anew has first to fail as often before its log tells as much.
        told = replace(
            now.failure,
            reason=before.failure.reason,
            remedy=before.failure.remedy,
            first_seen_time=before.failure.first_seen_time,
        )
        return replace(now, failure=told, since=before.since)
    return before


def _same_end(before: Failure, now: Failure) -> bool:
    """Whether the same container ended in the same way."""
    return now.exit_code is not None and (before.container, before.exit_code) == (
        now.container,
        now.exit_code,
    )
