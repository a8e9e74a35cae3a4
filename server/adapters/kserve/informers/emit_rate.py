"""Limit how often the feed reports a service whose state stays the same.

While a quota is full KServe writes the status of a serving InferenceService some twenty times a
second, and changes only its conditions.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from server.domain.service.inference_service import InferenceService, ServiceKey

MIN_INTERVAL = 1.0


class _Emitted(NamedTuple):
    """The last report of a service, and its monotonic time."""

    service: InferenceService
    at: float


class EmitRate:
    """Delay reports that only repeat the state, to one each MIN_INTERVAL seconds and service.

    Every other change is reported at once.
    """

    def __init__(self) -> None:
        self._emitted: dict[ServiceKey, _Emitted] = {}

    def wait(self, service: InferenceService, *, at_once: bool = False) -> float:
        """Return the seconds to wait before the report, 0 if `at_once`. At 0 it counts as emitted
        now."""
        last, now = self._emitted.get(service.key), time.monotonic()
        left = last.at + MIN_INTERVAL - now if last and not at_once else 0.0
        if last and left > 0 and _without_texts(last.service) == _without_texts(service):
            return left
        self._emitted[service.key] = _Emitted(service, now)
        return 0.0

    def uid_at(self, key: ServiceKey) -> str:
        """Return the uid of the last report; empty if there is none."""
        last = self._emitted.get(key)
        return last.service.uid if last else ""

    def forget(self, key: ServiceKey) -> None:
        """Forget a deleted service."""
        self._emitted.pop(key, None)


def _without_texts(service: InferenceService) -> InferenceService:
    """Return the service without the cluster's own texts and times, which may change alone."""
    status = service.status
    failure = status.failure and replace(status.failure, message="", first_seen_time=None)
    bare = replace(status, message="", failure=failure, conditions=(), last_transition_time=None)
    return replace(service, status=bare)
