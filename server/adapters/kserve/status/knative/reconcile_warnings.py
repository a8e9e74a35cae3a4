"""Explain why KServe reports a service as not ready although Knative has applied all of it.

KServe tries each update of a Knative Service in a dry run first, even one that changes nothing. The
dry run fails where two writes meet, and for as long as a quota is full. KServe then reports a
service that serves as not ready, some twenty times a second.
"""

from __future__ import annotations

from server.adapters.kserve.objects import get_list
from server.adapters.kserve.status.components import ComponentSpec
from server.adapters.kserve.status.kserve_errors import (
    RECONCILE_FAILED,
    is_lost_race,
    without_dry_run_name,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import ParsedService
from server.adapters.kserve.status.pods.redaction import gate_for_service, redacted_message
from server.domain.rollout.facts import ComponentFacts

# KServe computes Ready from these. The library behind it also counts every other condition without
# a severity, as if True were its good state; KServe gives its own others the severity Info.
_PARTS_OF_READY = ("Ready", "PredictorReady", "IngressReady")
MAX_FOREIGN_CONDITIONS = 3
LONGEST_NAME = 64
LONGEST_MESSAGE = 300


def reconcile_warning(
    component: ComponentSpec,
    facts: ComponentFacts,
    service: ParsedService,
    observed: ObservedObjects,
) -> str | None:
    """Return the warning for a complete component that KServe reports as not ready.

    Empty if the cause passes at once; None if there is no such cause.
    """
    ready = service.conditions.get(component.ready_condition, {})
    if not (facts.complete and facts.attempt and ready.get("reason") == RECONCILE_FAILED):
        return None
    message, _ = redacted_message(gate_for_service(observed), str(ready.get("message") or ""))
    message = without_dry_run_name(message)
    if is_lost_race(message):
        return ""
    if "dry run failed" in message and "exceeded quota" in message:
        return f"it serves; no pod can be added, since the namespace's quota is full: {message}"
    return None


def foreign_condition_warning(service: ParsedService, observed: ObservedObjects) -> str:
    """Name the conditions for which Ready is not True although KServe's own parts of it are.

    Another controller's condition may have False as its good state, so it is named and not
    interpreted. Empty if Ready is True or missing.
    """
    ready = service.conditions.get("Ready", {})
    if ready.get("status") in (None, "True"):
        return ""
    names = [
        str(c.get("type"))
        for c in get_list(service.status, "conditions")
        if c.get("type") not in _PARTS_OF_READY
        and not c.get("severity")
        and c.get("status") == ready["status"]
    ]
    cut = [n if len(n) <= LONGEST_NAME else f"{n[:LONGEST_NAME]}..." for n in names]
    cause = f", for a condition that is not KServe's own: {', '.join(cut[:MAX_FOREIGN_CONDITIONS])}"
    # A container's text is in the condition itself.
    message, _ = redacted_message(gate_for_service(observed), str(ready.get("message") or ""))
    reported = ": ".join(str(t) for t in (ready.get("reason"), message) if t)[:LONGEST_MESSAGE]
    return (
        f"it serves; KServe reports Ready={ready['status']}{cause if names else ''}"
        f"{f' ({reported})' if reported else ''}"
    )
