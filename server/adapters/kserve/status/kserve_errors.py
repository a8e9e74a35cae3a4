"""Read KServe's error messages in the status and the events of an InferenceService."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from server.adapters.kserve.objects import Object, get_map, parse_time
from server.adapters.kserve.status.grace_periods import AT_ONCE, LEFTOVER
from server.adapters.kserve.status.name_conflicts import (
    NOT_OWNED,
    NameConflict,
    conflict_in,
    is_own,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import FailureReason

_EVENT_REASONS = ("InternalError", "ServerlessModeRejected")
RECONCILE_FAILED = "ReconcileFailed"
_CONDITION_REASONS = (
    RECONCILE_FAILED,
    "InvalidGPUAllocation",
    "InvalidWorkerSpecNotSet",
    NOT_OWNED,
)
_RUNTIME_REASONS = ("NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled")

_DRY_RUN_POD = re.compile(r"dry-run-validation[a-z0-9]+")
# The reason for each text that a message may contain; the first match counts.
_MEANINGS = (
    ("ServingRuntimes or ClusterServingRuntimes with the name", FailureReason.NO_RUNTIME),
    ("no runtime found to support", FailureReason.NO_RUNTIME),
    ("specified runtime", FailureReason.NO_RUNTIME),
    ("StorageURI not supported", FailureReason.STORAGE_SCHEME),
    ("exceeded quota", FailureReason.QUOTA),
    # The cluster lacks an API, cannot call a webhook, or denies KServe itself the right.
    ("no matches for kind", FailureReason.RECONCILE_FAILED),
    ("failed calling webhook", FailureReason.RECONCILE_FAILED),
    ('is forbidden: User "', FailureReason.RECONCILE_FAILED),
    (" is invalid: ", FailureReason.INVALID_SPEC),
    ("denied the request", FailureReason.INVALID_SPEC),
)
_CAUSES = {
    FailureReason.NO_RUNTIME: "KServe finds no serving runtime for the model",
    FailureReason.STORAGE_SCHEME: "nothing in the cluster handles the model's storage URI",
    FailureReason.QUOTA: "the namespace's quota has no room for the objects of the service",
    FailureReason.INVALID_SPEC: "KServe cannot apply the spec",
    FailureReason.RECONCILE_FAILED: "KServe cannot create all objects of the service",
}
# Messages may quote whole objects.
LONGEST_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class KServeError:
    """Hold an error of KServe.

    `time`, `first_time`: when the cluster reported it last, and first; `datetime.min` if unknown.
    `final`: a retry cannot help. `conflict`: the object that has the name of one of the service's.
    """

    reason: FailureReason
    message: str
    time: datetime
    first_time: datetime
    final: bool
    conflict: NameConflict | None

    def problem(
        self, since: datetime, observed: ObservedObjects, tolerated: timedelta = AT_ONCE
    ) -> Problem:
        """Return the error as a problem, with the failure that callers see."""
        remedy = ""
        if self.conflict:
            if not is_own(self.conflict, observed):
                return Problem(self.conflict.failure(since), since, LEFTOVER)
            kind, name = self.conflict.kind, self.conflict.name
            remedy = f"delete the {kind} {name}: KServe creates it again"
        failure = failure_of(
            self.reason,
            f"{_CAUSES[self.reason]}: {self.message[:LONGEST_MESSAGE]}",
            remedy=remedy,
            retrying=False if self.final else None,
            first_seen_time=since,
        )
        return Problem(failure, since, tolerated)


def event_error(event: Object) -> KServeError | None:
    """Return the error in a warning about an InferenceService, or None."""
    message = str(event.get("message", ""))
    if event.get("reason") not in _EVENT_REASONS or is_lost_race(message):
        return None
    time = parse_time(event.get("lastTimestamp")) or parse_time(event.get("eventTime"))
    first_time = parse_time(event.get("firstTimestamp"))
    final = event["reason"] == "ServerlessModeRejected"
    return _error(message, time, first_time=first_time, final=final)


def status_error(status: Object, ready_conditions: Sequence[Object]) -> KServeError | None:
    """Return the error in the status, or None."""
    model = get_map(status, "modelStatus")
    if model.get("transitionStatus") == "InvalidSpec":
        info = get_map(model, "lastFailureInfo")
        known = info.get("reason") in _RUNTIME_REASONS
        reason = FailureReason.NO_RUNTIME if known else FailureReason.INVALID_SPEC
        message = f"{info.get('reason', '')}, {info.get('message', '')}"
        return _error(message, None, reason=reason)
    errors = (reconcile_error(condition) for condition in ready_conditions)
    return next((error for error in errors if error), None)


def reconcile_error(ready_condition: Object) -> KServeError | None:
    """Return why KServe gave up on a component in its last reconcile, or None.

    KServe clears it as soon as a reconcile gets as far as the component's own state.
    """
    message = str(ready_condition.get("message") or ready_condition.get("reason"))
    if not is_reconcile_error(ready_condition) or is_lost_race(message):
        return None
    failed = ready_condition.get("reason") == RECONCILE_FAILED
    default = FailureReason.RECONCILE_FAILED if failed else FailureReason.INVALID_SPEC
    return _error(message, parse_time(ready_condition.get("lastTransitionTime")), default=default)


def is_reconcile_error(ready_condition: Object) -> bool:
    """Return whether the last reconcile of a component failed, even if it only lost a race."""
    return ready_condition.get("reason") in _CONDITION_REASONS


def is_lost_race(message: str) -> bool:
    """Return whether KServe's own writes met, which it then repeats at once."""
    lost = "the object has been modified" in message
    return lost or message.startswith("fails to update InferenceService status")


def without_dry_run_name(message: str) -> str:
    """Return a message that stays the same: Knative's webhook names each dry-run pod anew."""
    return _DRY_RUN_POD.sub("dry-run-validation", message)


def _error(
    message: str,
    time: datetime | None,
    *,
    first_time: datetime | None = None,
    reason: FailureReason | None = None,
    default: FailureReason = FailureReason.INVALID_SPEC,
    final: bool = False,
) -> KServeError:
    """Parse a message; without a `reason`, take that of the text, or `default`."""
    message = without_dry_run_name(message)
    conflict = conflict_in(message)
    if reason is None and conflict:
        reason = FailureReason.RECONCILE_FAILED
    elif reason is None:
        reason = next((r for text, r in _MEANINGS if text in message), default)
    # The API server's own validation says this; KServe retries, which cannot help.
    invalid = reason is FailureReason.INVALID_SPEC and " is invalid: " in message
    time = time or datetime.min.replace(tzinfo=UTC)
    return KServeError(reason, message, time, first_time or time, final or invalid, conflict)
