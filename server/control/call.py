"""The context of an RPC: its caller, its deadline and its trace."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from server.deadline import NEVER, Deadline
from server.domain.caller import ANONYMOUS, Caller

CLUSTER_TIMEOUT = timedelta(seconds=30)
# What our own error, that the outcome is unknown, needs to reach the caller in time.
RESPONSE_MARGIN = timedelta(milliseconds=300)


class Authenticate(Protocol):
    """Authenticates the caller of one call, by the credentials that came with it."""

    def __call__(self, *, fresh: bool = False) -> Awaitable[Caller]:
        """Return the caller; with `fresh` as it is now, or was some seconds ago.

        Raises Unauthenticated, and PermissionDenied where it may not act for another.
        """
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC. The interceptor makes it, and every method of control that serves RPCs takes it.

    `trace` names the call in the log. `authenticate`: for a stream, to check its caller again; None
    where callers have no identity.
    """

    caller: Caller = ANONYMOUS
    deadline: Deadline = NEVER
    trace: str = ""
    authenticate: Authenticate | None = None

    def write_deadline(self) -> Deadline:
        """Return until when the cluster has to answer a write: shortly before the deadline."""
        left = self.deadline.left()
        within = max(left - RESPONSE_MARGIN.total_seconds(), left / 2)
        return Deadline.after(min(CLUSTER_TIMEOUT.total_seconds(), within))
