"""Keep the failure of a Knative rollout until the rollout completes.

Knative deletes pods that fail and creates new ones, about once per deadline, and their restart
counts begin at 0; at zero scale it creates none. That does not end the failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.facts import ComponentFacts, Facts, Problem
from server.domain.rollout.failures import rank_of
from server.domain.rollout.status import Component, Failure


@dataclass(frozen=True, slots=True)
class StickyFailure:
    """Hold the failure of one attempt of a component."""

    attempt: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class StickyFailures:
    """Hold the failures of a service's rollout so far, by component."""

    by_component: Mapping[Component, StickyFailure] = field(default_factory=dict)

    def updated(self, facts: Facts) -> StickyFailures:
        """Add the present failures; drop those of completed and of earlier attempts."""
        failures = {c.shown.component: self._next(c, facts) for c in facts.components}
        return StickyFailures({kind: failure for kind, failure in failures.items() if failure})

    def redacted(self, gate_of: Callable[[Failure], OutputGate]) -> StickyFailures:
        """Return the failures without container text that may no longer be shown."""
        failures = {kind: _redacted(f, gate_of) for kind, f in self.by_component.items()}
        return StickyFailures(failures)

    def added_to(self, facts: Facts) -> Facts:
        """Return the facts with these failures. Call `updated` with the facts first."""
        if not self.by_component:
            return facts
        return replace(facts, components=tuple(map(self._with_failure, facts.components)))

    def _next(self, component: ComponentFacts, facts: Facts) -> StickyFailure | None:
        if not component.attempt or not component.applied or component.completed_at:
            return None
        kept = self.by_component.get(component.shown.component)
        before = kept.problem if kept and kept.attempt == component.attempt else None
        failed = (p for p in component.problems if p.fails_at and p.fails_at <= facts.now)
        problem = _more_significant(before, next(failed, None))
        return StickyFailure(component.attempt, problem) if problem else None

    def _with_failure(self, component: ComponentFacts) -> ComponentFacts:
        kept = self.by_component.get(component.shown.component)
        if kept is None:
            return component
        return replace(component, problems=(kept.problem, *component.problems))


def _redacted(kept: StickyFailure, gate_of: Callable[[Failure], OutputGate]) -> StickyFailure:
    failure = kept.problem.failure
    held_back = gate_of(failure).held_back if failure.container_text else ""
    if not held_back:
        return kept
    redacted = failure.with_container_text(held_back)
    return replace(kept, problem=replace(kept.problem, failure=redacted))


def _more_significant(before: Problem | None, now: Problem | None) -> Problem | None:
    """Return the cause that explains more, at the pod that shows it now."""
    if before is None or now is None:
        return before or now
    if rank_of(now.failure.reason) < rank_of(before.failure.reason):
        return now
    if not now.failure.pod:
        return before  # reported by a Revision whose pods are gone
    if now.failure.reason is before.failure.reason or _is_same_exit(before.failure, now.failure):
        # The log of a new pod shows as much only after as many exits.
        failure = replace(
            now.failure,
            reason=before.failure.reason,
            remedy=before.failure.remedy,
            first_seen_time=before.failure.first_seen_time,
        )
        return replace(now, failure=failure, since=before.since)
    return before


def _is_same_exit(before: Failure, now: Failure) -> bool:
    return now.exit_code is not None and (before.container, before.exit_code) == (
        now.container,
        now.exit_code,
    )
