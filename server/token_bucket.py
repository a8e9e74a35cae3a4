"""A token bucket.

The libraries for it (aiolimiter, pyrate-limiter, limits) make a lock, a timer or a thread for each
bucket, and wait where a caller must be refused.
"""

from __future__ import annotations


class TokenBucket:
    """Lets `rate` calls pass a second, and `burst` at once after a pause. Full, it is as new."""

    __slots__ = ("_burst_seconds", "_interval", "_next")

    def __init__(self, rate: float, burst: float) -> None:
        self._interval = 1 / rate
        self._burst_seconds = (burst - 1) / rate
        # Any clock: a machine that has just booted has a small one.
        self._next = float("-inf")

    def delay(self, now: float) -> float:
        """Return the seconds until one more may pass."""
        return max(0.0, self._next - now)

    def take(self, now: float) -> None:
        """Let one pass, now or after the delay."""
        self._next = max(self._next, now - self._burst_seconds) + self._interval

    def give_back(self) -> None:
        """Let another one pass in place of one that took its turn after a delay and left."""
        self._next -= self._interval
