"""The context of an RPC: its caller, its deadline and its trace."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from server.domain.caller import ANONYMOUS, Caller

CLUSTER_TIMEOUT = timedelta(seconds=30)
# What our own error, that the outcome is unknown, needs to reach the caller in time.
RESPONSE_MARGIN = timedelta(milliseconds=300)


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC. The interceptor makes it, and every method of control that serves RPCs takes it.

    `deadline` is a time of the monotonic clock, None where the caller set none. `trace` names the
    call in the log.
    """

    caller: Caller = ANONYMOUS
    deadline: float | None = None
    trace: str = ""

    def cluster_timeout(self) -> timedelta:
        """Return how long the cluster has to answer a write: until shortly before the deadline."""
        if self.deadline is None:
            return CLUSTER_TIMEOUT
        left = timedelta(seconds=self.deadline - time.monotonic())
        return min(CLUSTER_TIMEOUT, max(left - RESPONSE_MARGIN, left / 2))
