"""The context of an RPC: its caller, its deadline and its trace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from server.deadline import NEVER, Deadline
from server.domain.caller import ANONYMOUS, BearerToken, Caller

CLUSTER_TIMEOUT = timedelta(seconds=30)
# What our own error, that the outcome is unknown, needs to reach the caller in time.
RESPONSE_MARGIN = timedelta(milliseconds=300)


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC. The interceptor makes it, and every method of control that serves RPCs takes it.

    `trace` names the call in the log. `token` is the caller's, which a stream checks again.
    """

    caller: Caller = ANONYMOUS
    deadline: Deadline = NEVER
    trace: str = ""
    token: BearerToken | None = None

    def write_deadline(self) -> Deadline:
        """Return until when the cluster has to answer a write: shortly before the deadline."""
        left = self.deadline.left()
        within = max(left - RESPONSE_MARGIN.total_seconds(), left / 2)
        return Deadline.after(min(CLUSTER_TIMEOUT.total_seconds(), within))
