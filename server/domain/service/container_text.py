"""Services and failures without the text that containers wrote, for callers who may not read it."""

from __future__ import annotations

from dataclasses import replace
from weakref import ref

from server.domain.rollout.status import (
    LAST_LOG_LINE,
    Condition,
    Failure,
    InferenceServiceStatus,
)
from server.domain.service.inference_service import InferenceService

HELD_BACK = "(not shown: it takes the right to get pods/log in the namespace)"


def has_container_text(service: InferenceService) -> bool:
    """Return whether a container wrote some of the service's status."""
    status = service.status
    failure = status.failure
    return (
        (failure is not None and failure_has_container_text(failure))
        or LAST_LOG_LINE in status.message
        or any(condition.container_text for condition in status.conditions)
    )


def failure_has_container_text(failure: Failure) -> bool:
    """Return whether a container wrote some of a failure."""
    return bool(failure.container_text or failure.log_lines)


# By the id of the service with the text, which no other object has until the reference has gone.
_held_back: dict[int, tuple[ref[InferenceService], InferenceService]] = {}


def without_container_text(service: InferenceService) -> InferenceService:
    """Return the service with HELD_BACK in place of each text of a container.

    It is the same object for the same service as long as that lives, so that its bytes are cached.
    """
    place = id(service)
    if known := _held_back.get(place):
        return known[1]
    held_back = replace(service, status=status_without_container_text(service.status))
    _held_back[place] = ref(service, lambda _: _held_back.pop(place, None)), held_back
    return held_back


def failure_without_container_text(failure: Failure) -> Failure:
    """Return the failure with HELD_BACK in place of each text of a container."""
    if failure.container_text:
        failure = failure.with_container_text(HELD_BACK)
    return replace(failure, log_lines=(HELD_BACK,)) if failure.log_lines else failure


def status_without_container_text(status: InferenceServiceStatus) -> InferenceServiceStatus:
    """Return the status with HELD_BACK in place of each text of a container."""
    failure = status.failure and failure_without_container_text(status.failure)
    message = status.message
    text = status.failure.container_text if status.failure else ""
    if text and message.endswith(text):
        message = message.removesuffix(text) + HELD_BACK
    before, marker, line = message.partition(LAST_LOG_LINE)
    return replace(
        status,
        message=before + marker + (HELD_BACK if line else ""),
        failure=failure,
        conditions=tuple(map(_condition, status.conditions)),
    )


def _condition(condition: Condition) -> Condition:
    if not condition.container_text:
        return condition
    message = condition.message.removesuffix(condition.container_text) + HELD_BACK
    return replace(condition, message=message, container_text=HELD_BACK)
