"""KServe's own words for what it cannot carry out, in its status and its events."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from server.adapters.kserve.objects import Object, items, moment, part
from server.domain.status import Failure, FailureReason

_REFUSING_EVENTS = ("InternalError", "ServerlessModeRejected")
_REFUSING_CONDITIONS = ("ReconcileFailed", "InvalidGPUAllocation", "InvalidWorkerSpecNotSet")
_RUNTIME_REASONS = ("NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled")
_READY_CONDITIONS = ("PredictorReady", "TransformerReady", "ExplainerReady")

_TRIED = re.compile(r"dry-run-validation[a-z0-9]+")
# What a text contains, in the order of trying, and what it then means.
_MEANINGS = (
    ("ServingRuntimes or ClusterServingRuntimes with the name", FailureReason.NO_RUNTIME),
    ("no runtime found to support", FailureReason.NO_RUNTIME),
    ("specified runtime", FailureReason.NO_RUNTIME),
    ("StorageURI not supported", FailureReason.STORAGE_SCHEME),
    ("exceeded quota", FailureReason.QUOTA),
)
_SAYINGS = {
    FailureReason.NO_RUNTIME: (
        "KServe finds no serving runtime for the model",
        "name a serving runtime that the cluster has, or a model format that one of them supports",
    ),
    FailureReason.STORAGE_SCHEME: (
        "nothing in the cluster handles the model's storage URI",
        "use a scheme that KServe supports, or add a ClusterStorageContainer for this one",
    ),
    FailureReason.QUOTA: (
        "the namespace's quota has no room for what KServe must make",
        "ask for less, free some of the quota, or have it raised",
    ),
    FailureReason.INVALID_SPEC: (
        "KServe cannot carry out the spec",
        "correct the spec as the message says, then deploy again",
    ),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What KServe said, and when."""

    reason: FailureReason
    words: str
    at: datetime
    final: bool = False

    def failure(self, since: datetime) -> Failure:
        """The refusal as callers are told it."""
        cause, remedy = _SAYINGS[self.reason]
        return Failure(
            self.reason,
            f"{cause}: {self.words}",
            remedy,
            retrying=not self.final,
            first_seen_time=since,
        )


def refusal_in_event(event: Object) -> Refusal | None:
    """The refusal that a warning about an InferenceService tells, or None."""
    words = str(event.get("message", ""))
    if event.get("reason") not in _REFUSING_EVENTS or is_lost_race(words):
        return None
    at = moment(event.get("lastTimestamp")) or moment(event.get("eventTime"))
    rejected = event["reason"] == "ServerlessModeRejected"
    return _refusal(_meaning(words), words, at, final=rejected)


def refusal_in_status(service: Object) -> Refusal | None:
    """The refusal that the status tells, or None."""
    model = part(service, "status", "modelStatus")
    info = part(model, "lastFailureInfo")
    if model.get("transitionStatus") == "InvalidSpec":
        known = info.get("reason") in _RUNTIME_REASONS
        reason = FailureReason.NO_RUNTIME if known else FailureReason.INVALID_SPEC
        return _refusal(reason, f"{info.get('reason', '')}, {info.get('message', '')}", None)
    return _refusal_in_conditions(service)


def _refusal_in_conditions(service: Object) -> Refusal | None:
    for condition in items(service, "status", "conditions"):
        words = str(condition.get("message") or condition.get("reason"))
        if (
            condition.get("type") in _READY_CONDITIONS
            and condition.get("reason") in _REFUSING_CONDITIONS
            and not is_lost_race(words)
        ):
            at = moment(condition.get("lastTransitionTime"))
            return _refusal(_meaning(words), words, at)
    return None


def _refusal(
    reason: FailureReason, words: str, at: datetime | None, *, final: bool = False
) -> Refusal:
    words = without_name_of_try(words)
    # The API server's own validation says this; KServe retries, which cannot help.
    invalid = reason is FailureReason.INVALID_SPEC and " is invalid: " in words
    return Refusal(reason, words, at or datetime.min.replace(tzinfo=UTC), final or invalid)


def without_name_of_try(words: str) -> str:
    """The same each time: Knative's webhook tries each update with a pod of another name."""
    return _TRIED.sub("dry-run-validation", words)


def _meaning(words: str) -> FailureReason:
    return next((r for text, r in _MEANINGS if text in words), FailureReason.INVALID_SPEC)


def is_lost_race(words: str) -> bool:
    """Whether KServe's own writes met, which it then repeats at once."""
    lost = "the object has been modified" in words
    return lost or words.startswith("fails to update InferenceService status")
