"""Deadlines of the monotonic clock."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import NamedTuple


class Deadline(NamedTuple):
    """A time of the monotonic clock. The event loop uses the same clock: pass `at` to
    `asyncio.timeout_at`.

    uvloop's timeout may come a millisecond before the deadline. `expired` may be false after it.
    """

    at: float

    @classmethod
    def after(cls, time_left: timedelta | float | None) -> Deadline:
        """Return the deadline after a time, which as a number is in seconds; NEVER for None.

        It takes the `time_remaining()` of a gRPC call.
        """
        if time_left is None:
            return NEVER
        seconds = time_left.total_seconds() if isinstance(time_left, timedelta) else time_left
        return cls(time.monotonic() + seconds)

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self.at

    def left(self, least: float = 0.0) -> float:
        """Return the seconds until then, at least `least`."""
        return max(least, self.at - time.monotonic())

    def sooner(self, other: Deadline) -> Deadline:
        """Return the earlier of the two."""
        return self if self.at <= other.at else other


NEVER = Deadline(math.inf)
