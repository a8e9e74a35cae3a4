"""KServe's own words for what it cannot carry out, in its status and its events."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from server.adapters.kserve.objects import Object, get_condition, get_map, parse_time
from server.adapters.kserve.status.name_conflicts import (
    NOT_OWNED,
    NameConflict,
    conflict_in,
    is_own,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Failure, FailureReason

_REFUSING_EVENTS = ("InternalError", "ServerlessModeRejected")
_RECONCILE_FAILED = "ReconcileFailed"
_REFUSING_CONDITIONS = (
    _RECONCILE_FAILED,
    "InvalidGPUAllocation",
    "InvalidWorkerSpecNotSet",
    NOT_OWNED,
)
_RUNTIME_REASONS = ("NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled")
READY_CONDITIONS = ("PredictorReady", "TransformerReady", "ExplainerReady")

_TRIED = re.compile(r"dry-run-validation[a-z0-9]+")
# What a text contains, in the order of trying, and what it then means.
_MEANINGS = (
    ("ServingRuntimes or ClusterServingRuntimes with the name", FailureReason.NO_RUNTIME),
    ("no runtime found to support", FailureReason.NO_RUNTIME),
    ("specified runtime", FailureReason.NO_RUNTIME),
    ("StorageURI not supported", FailureReason.STORAGE_SCHEME),
    ("exceeded quota", FailureReason.QUOTA),
    # The cluster lacks an API, cannot ask a webhook, or denies KServe itself the right.
    ("no matches for kind", FailureReason.RECONCILE_FAILED),
    ("failed calling webhook", FailureReason.RECONCILE_FAILED),
    ('is forbidden: User "', FailureReason.RECONCILE_FAILED),
    (" is invalid: ", FailureReason.INVALID_SPEC),
    ("denied the request", FailureReason.INVALID_SPEC),
)
_CAUSES = {
    FailureReason.NO_RUNTIME: "KServe finds no serving runtime for the model",
    FailureReason.STORAGE_SCHEME: "nothing in the cluster handles the model's storage URI",
    FailureReason.QUOTA: "the namespace's quota has no room for what KServe must make",
    FailureReason.INVALID_SPEC: "KServe cannot carry out the spec",
    FailureReason.RECONCILE_FAILED: "KServe cannot make all that belongs to the service",
}
# KServe's words may quote whole objects.
LONGEST_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class KServeError:
    """What KServe said, and when; `conflict`: the object in the way, where that is the cause."""

    reason: FailureReason
    words: str
    at: datetime
    final: bool
    conflict: NameConflict | None

    def failure(self, since: datetime, observed: ObservedObjects) -> Failure:
        """The refusal as callers are told it."""
        remedy = ""
        if self.conflict:
            if not is_own(self.conflict, observed):
                return self.conflict.failure(since)
            kind, name = self.conflict.kind, self.conflict.name
            remedy = f"delete the {kind} {name}: KServe makes it anew"
        return failure_of(
            self.reason,
            f"{_CAUSES[self.reason]}: {self.words[:LONGEST_MESSAGE]}",
            remedy=remedy,
            retrying=False if self.final else None,
            first_seen_time=since,
        )


def error_in_event(event: Object) -> KServeError | None:
    """The refusal that a warning about an InferenceService tells, or None."""
    words = str(event.get("message", ""))
    if event.get("reason") not in _REFUSING_EVENTS or is_lost_race(words):
        return None
    at = parse_time(event.get("lastTimestamp")) or parse_time(event.get("eventTime"))
    rejected = event["reason"] == "ServerlessModeRejected"
    return _error(words, at, final=rejected)


def error_in_status(service: Object) -> KServeError | None:
    """The refusal that the status tells, or None."""
    model = get_map(service, "status", "modelStatus")
    info = get_map(model, "lastFailureInfo")
    if model.get("transitionStatus") == "InvalidSpec":
        known = info.get("reason") in _RUNTIME_REASONS
        reason = FailureReason.NO_RUNTIME if known else FailureReason.INVALID_SPEC
        words = f"{info.get('reason', '')}, {info.get('message', '')}"
        return _error(words, None, reason=reason)
    return _error_in_conditions(service)


def reconcile_error(service: Object, ready_condition: str) -> KServeError | None:
    """Read why KServe gave up on a component in its last reconcile, or None.

    KServe takes it back as soon as a reconcile gets as far as the component's own state.
    """
    given = get_condition(service, ready_condition)
    words = str(given.get("message") or given.get("reason"))
    if not is_reconcile_error(service, ready_condition) or is_lost_race(words):
        return None
    failed = given.get("reason") == _RECONCILE_FAILED
    otherwise = FailureReason.RECONCILE_FAILED if failed else FailureReason.INVALID_SPEC
    return _error(words, parse_time(given.get("lastTransitionTime")), otherwise=otherwise)


def is_reconcile_error(service: Object, ready_condition: str) -> bool:
    """Whether KServe's last reconcile of a component failed, were it by a race that it lost."""
    return get_condition(service, ready_condition).get("reason") in _REFUSING_CONDITIONS


def _error_in_conditions(service: Object) -> KServeError | None:
    errors = (reconcile_error(service, kind) for kind in READY_CONDITIONS)
    return next((error for error in errors if error), None)


def _error(
    words: str,
    at: datetime | None,
    *,
    reason: FailureReason | None = None,
    otherwise: FailureReason = FailureReason.INVALID_SPEC,
    final: bool = False,
) -> KServeError:
    """Read words of KServe; without a `reason` it is what they mean, or `otherwise`."""
    words = without_name_of_try(words)
    conflict = conflict_in(words)
    if reason is None:
        reason = FailureReason.RECONCILE_FAILED if conflict else _meaning(words, otherwise)
    # The API server's own validation says this; KServe retries, which cannot help.
    invalid = reason is FailureReason.INVALID_SPEC and " is invalid: " in words
    at = at or datetime.min.replace(tzinfo=UTC)
    return KServeError(reason, words, at, final or invalid, conflict)


def without_name_of_try(words: str) -> str:
    """The same each time: Knative's webhook tries each update with a pod of another name."""
    return _TRIED.sub("dry-run-validation", words)


def _meaning(words: str, otherwise: FailureReason) -> FailureReason:
    return next((r for text, r in _MEANINGS if text in words), otherwise)


def is_lost_race(words: str) -> bool:
    """Whether KServe's own writes met, which it then repeats at once."""
    lost = "the object has been modified" in words
    return lost or words.startswith("fails to update InferenceService status")
