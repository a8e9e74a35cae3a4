"""The context of an RPC: its caller, its deadline and its trace."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import NamedTuple, Protocol

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


class CallRecord(Protocol):
    """The audit record of a call that writes."""

    async def begin(self, caller: Caller, deadline: Deadline, target: str) -> None:
        """Store that the caller is about to write. Raises AuditUnavailable."""
        ...

    def note(self, **result: str) -> None:
        """Add fields of the result to the record of the end."""
        ...


class Call(NamedTuple):
    """One RPC. The interceptor makes it, and every method of control that serves RPCs takes it.

    `trace` names the call in the log. `authenticate`: for a stream, to check its caller again; None
    where callers have no identity. `record` is None where there is no audit.
    """

    caller: Caller = ANONYMOUS
    deadline: Deadline = NEVER
    trace: str = ""
    authenticate: Authenticate | None = None
    record: CallRecord | None = None

    async def begin_write(self, target: tuple[str, ...]) -> None:
        """Store the audit record that the caller is about to write `target`, a key.

        Every method that writes calls it, after it has authorized and validated and before it
        writes anything. Raises AuditUnavailable: then nothing may be written.
        """
        if self.record:
            await self.record.begin(self.caller, self.write_deadline(), "/".join(target))

    def note_result(self, **result: str) -> None:
        """Add fields of the result to the audit record."""
        if self.record:
            self.record.note(**result)

    def write_deadline(self) -> Deadline:
        """Return until when the cluster has to answer a write: shortly before the deadline."""
        left = self.deadline.left()
        within = max(left - RESPONSE_MARGIN.total_seconds(), left / 2)
        return Deadline.after(min(CLUSTER_TIMEOUT.total_seconds(), within))
