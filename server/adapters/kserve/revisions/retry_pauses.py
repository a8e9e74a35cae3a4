"""Pause the services and namespaces whose revisions the API server does not store."""

from __future__ import annotations

import random
import time

from server.domain.service.inference_service import ServiceKey

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 600.0


class RetryPauses:
    """The pause of a service doubles with each failure in a row, and so does that of a namespace
    that refuses all of them."""

    def __init__(self) -> None:
        # How many failures in a row, and the time of the next try.
        self._failed: dict[ServiceKey | str, tuple[int, float]] = {}

    def left(self, key: ServiceKey) -> float:
        """Return the seconds until a service may be tried."""
        ends = max(self._failed.get(k, (0, 0.0))[1] for k in (key, key.namespace))
        return max(0.0, ends - time.monotonic())

    def fail(self, key: ServiceKey | str, at_least: float = 0.0) -> None:
        """Begin a pause of a service or a namespace: jittered, at most LONGEST_PAUSE.

        Several services of a namespace are tried at once. Their failures count as one.
        """
        failures, ends = self._failed.get(key, (0, 0.0))
        if ends > time.monotonic():
            return
        ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 20))
        pause = max(random.uniform(ceiling / 2, ceiling), min(at_least, LONGEST_PAUSE))  # noqa: S311 (jitter)
        self._failed[key] = failures + 1, time.monotonic() + pause

    def end(self, key: ServiceKey | str) -> None:
        """End a pause: the next one is short again."""
        self._failed.pop(key, None)
