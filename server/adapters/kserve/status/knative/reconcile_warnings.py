"""What KServe complains of although Knative has all as it was asked.

KServe tries each update of a Knative Service before it makes it, also one that changes nothing.
That fails where two writes meet, and for as long as a quota is full; then it calls a service that
serves not ready, some twenty times a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.adapters.kserve.objects import Object, get_condition, get_list
from server.adapters.kserve.status.components import ComponentSpec
from server.adapters.kserve.status.kserve_errors import is_lost_race, without_name_of_try
from server.domain.rollout.facts import ComponentFacts

# What KServe makes Ready of. By the library that computes it, every other condition without a
# severity counts too, as if its True were the good state; KServe marks its own others Info.
_PARTS_OF_READY = ("Ready", "PredictorReady", "IngressReady")
MOST_FOREIGN = 3
MOST_OF_NAME = 64
LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class ReconcileWarning:
    """`warning`: what callers are told of it; empty where it passes at once."""

    warning: str = ""


def reconcile_warning(
    service: Object, which: ComponentSpec, facts: ComponentFacts
) -> ReconcileWarning | None:
    """What KServe calls a component not ready for, though it is complete by Knative; else None."""
    told = get_condition(service, which.ready_condition)
    if not (facts.complete and facts.attempt and told.get("reason") == "ReconcileFailed"):
        return None
    words = without_name_of_try(str(told.get("message") or ""))
    if is_lost_race(words):
        return ReconcileWarning()
    if "dry run failed" in words and "exceeded quota" in words:
        return ReconcileWarning(
            f"it serves; no pod more can be made, since the namespace's quota is full: {words}"
        )
    return None


def unexplained_unready(service: Object) -> str:
    """Name the conditions for which Ready is not True although KServe's own parts of it are.

    Another controller's condition may be one whose False is the good state, so it is named and not
    reconciled. Empty where Ready is True.
    """
    ready = get_condition(service, "Ready")
    if ready.get("status") in (None, "True"):
        return ""
    foreign = [
        c
        for c in get_list(service, "status", "conditions")
        if c.get("type") not in _PARTS_OF_READY and not c.get("severity")
    ]
    same = [c for c in foreign if c.get("status") == ready["status"]]
    names = ", ".join(_cut_name(str(c.get("type"))) for c in same[:MOST_FOREIGN])
    by = f", for a condition that is not KServe's own: {names}"
    words = f" ({_words(ready)})" if _words(ready) else ""
    return f"it serves; KServe calls it Ready={ready['status']}{by if same else ''}{words}"


def _cut_name(name: str) -> str:
    return name if len(name) <= MOST_OF_NAME else f"{name[:MOST_OF_NAME]}..."


def _words(of: Object) -> str:
    """The reason and the message of a condition, cut."""
    words = ": ".join(str(of[name]) for name in ("reason", "message") if of.get(name))
    return words[:LONGEST_MESSAGE]
