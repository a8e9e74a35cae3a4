"""How often a service is told of whose state stays what it was.

With a full quota KServe writes the status of a service that serves some twenty times a second, and
nothing of it is news but its conditions.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from server.domain.service.inference_service import InferenceService, ServiceKey

APART = 1.0


class _Told(NamedTuple):
    """What was told last, without its evidence, and when (monotonic)."""

    news: InferenceService
    at: float


class Pacing:
    """Holds back what only repeats the state, so that each service tells it once in APART seconds.

    Whatever else changes is told at once.
    """

    def __init__(self) -> None:
        self._told: dict[ServiceKey, _Told] = {}

    def wait(self, service: InferenceService) -> float:
        """The seconds to wait before the service is told; with 0 it counts as told now."""
        news, now = _without_evidence(service), time.monotonic()
        last = self._told.get(service.key)
        if last and last.news == news and (left := last.at + APART - now) > 0:
            return left
        self._told[service.key] = _Told(news, now)
        return 0.0

    def forget(self, key: ServiceKey) -> None:
        """Let go of a service that is gone."""
        self._told.pop(key, None)


def _without_evidence(service: InferenceService) -> InferenceService:
    """The service without the cluster's own words, which vary where nothing else does."""
    status = service.status
    failure = status.failure and replace(status.failure, message="", first_seen_time=None)
    bare = replace(status, message="", failure=failure, conditions=(), last_transition_time=None)
    return replace(service, status=bare)
