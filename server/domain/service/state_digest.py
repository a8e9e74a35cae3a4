"""A digest of a service's state, which every replica derives alike."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from weakref import ref

import msgspec

from server.domain.rollout.status import LAST_LOG_LINE, InferenceServiceStatus
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import InferenceService


def state_digest(service: InferenceService) -> str:
    """Hash the state of a service without that which one process remembers or fetches by itself.

    Two states with the same digest are the same to a reader: they may differ in lines of logs, in
    the times at which a process first saw a failure or the state, and in the newest generation that
    it has seen READY. The etag stands for spec, labels and annotations.

    It is computed once for each object, as long as that lives.
    """
    return _digests_of(service)[0]


def remembered_digest(service: InferenceService) -> str:
    """Hash what `state_digest` leaves out: only the same process can compare it."""
    return _digests_of(service)[1]


# By the object's id, which no other object has until the reference has gone.
_digests: dict[int, tuple[ref[InferenceService], tuple[str, str]]] = {}


def _digests_of(service: InferenceService) -> tuple[str, str]:
    place = id(service)
    if cached := _digests.get(place):
        return cached[1]
    digests = _state(service), _remembered(service.status)
    _digests[place] = ref(service, lambda _: _digests.pop(place, None)), digests
    return digests


def _state(service: InferenceService) -> str:
    status = _derived_alike(service.status)
    return fingerprint(
        [
            service.uid,
            service.generation,
            service.etag,
            # As dataclasses.asdict would, in a tenth of the time.
            msgspec.to_builtins(status, builtin_types=(datetime,)),
            dict(service.selectable_labels),
            service.delete_time,
            service.unmanaged,
            service.deployment_id,
            service.spec_writer,
        ]
    )


def _derived_alike(status: InferenceServiceStatus) -> InferenceServiceStatus:
    failure = status.failure and replace(
        status.failure,
        message=_without_log_line(status.failure.message),
        log_lines=(),
        first_seen_time=None,
        container_text="",
    )
    return replace(
        status,
        message=_without_log_line(status.message),
        latest_ready_generation=None,
        failure=failure,
        last_transition_time=None,
    )


def _remembered(status: InferenceServiceStatus) -> str:
    failure = status.failure
    seen = [failure.message, failure.log_lines, failure.first_seen_time] if failure else []
    return fingerprint(
        [status.message, status.latest_ready_generation, status.last_transition_time, *seen]
    )[:8]


def _without_log_line(message: str) -> str:
    return message.partition(LAST_LOG_LINE)[0]
