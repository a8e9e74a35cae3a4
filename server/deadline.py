"""A deadline: the moment until which something may take."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock, which is the event loop's too: `asyncio.timeout_at` takes
    `at`."""

    at: float

    @classmethod
    def after(cls, time_left: timedelta | float | None) -> Deadline:
        """Return the deadline after a time, in seconds where it is a number; None: NEVER.

        The time of a gRPC call is its `time_remaining()`.
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
