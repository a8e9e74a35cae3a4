"""What KServe complains of although Knative has all as it was asked.

KServe tries each update of a Knative Service before it makes it, also one that changes nothing.
That fails where two writes meet, and for as long as a quota is full; then it calls a service that
serves not ready, some twenty times a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.adapters.kserve.objects import Object, condition
from server.adapters.kserve.observing.components import Part
from server.adapters.kserve.observing.refusal_reading import is_lost_race, without_name_of_try
from server.domain.facts import ComponentFacts


@dataclass(frozen=True, slots=True)
class Complaint:
    """`warning`: what callers are told of it; empty where it passes at once."""

    warning: str = ""


def complaint(service: Object, which: Part, facts: ComponentFacts) -> Complaint | None:
    """What KServe calls a component not ready for, though it is complete by Knative; else None."""
    told = condition(service, which.ready_condition)
    if not (facts.complete and facts.attempt and told.get("reason") == "ReconcileFailed"):
        return None
    words = without_name_of_try(str(told.get("message") or ""))
    if is_lost_race(words):
        return Complaint()
    if "dry run failed" in words and "exceeded quota" in words:
        return Complaint(
            f"it serves; no pod more can be made, since the namespace's quota is full: {words}"
        )
    return None
