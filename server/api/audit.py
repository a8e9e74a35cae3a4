"""The audit: one record when a write begins, one when it ends, and sums of refused calls.

Records have names only: nothing of a spec, no value of a variable, no token.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

from server.api.errors import cut
from server.deadline import Deadline
from server.domain.caller import ANONYMOUS, Caller
from server.domain.errors import AuditUnavailable, ErrorReason
from server.ports import AUDIT_SECONDS, MOST_AUDIT_BYTES, AuditSink

REFUSALS_SECONDS = 60.0
# Of one sum: those of further callers and addresses are summed up by method and reason alone.
MOST_REFUSALS = 100

_NAME_BYTES = 256
_GROUPS_BYTES = 512
# Of reads: only these are counted.
_REFUSED = (ErrorReason.UNAUTHENTICATED.value, ErrorReason.PERMISSION_DENIED.value)

Fields = Mapping[str, Any]
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class _Refusal(NamedTuple):
    user: str
    on_behalf_of: str
    host: str
    method: str
    code: str
    reason: str


@dataclass(slots=True)
class _Sum:
    first: str
    target: str
    count: int = 0


class Audit:
    """Makes the records of calls and stores them in a sink."""

    def __init__(self, sink: AuditSink, refusals_seconds: float = REFUSALS_SECONDS) -> None:
        self._sink = sink
        self._refusals_seconds = refusals_seconds
        self._refusals: dict[_Refusal, _Sum] = {}
        self._timer: asyncio.TimerHandle | None = None

    def require_available(self) -> None:
        """Raise AuditUnavailable while the sink takes no records."""
        if not self._sink.available():
            raise AuditUnavailable(written=False)

    async def keep(self, stored: asyncio.Future[None], within: float, *, written: bool) -> None:
        """Wait for a record. Raises AuditUnavailable if it takes too long; it is stored later.

        `written`: whether the write that the record is about has been done.
        """
        if self._sink.available():
            await asyncio.wait([stored], timeout=within)
        if not stored.done():
            raise AuditUnavailable(written=written)

    def put(self, fields: Fields) -> asyncio.Future[None]:
        """Queue a record, without those fields that are empty."""
        given = {name: value for name, value in fields.items() if value}
        line = _encode({"time": _now(), **given}).encode(errors="replace") + b"\n"
        assert len(line) <= MOST_AUDIT_BYTES, "every field is cut"
        return self._sink.put(line)

    def count(self, refusal: _Refusal, target: str) -> None:
        """Count a refused call. Its sum is stored once a minute."""
        if refusal not in self._refusals and len(self._refusals) >= MOST_REFUSALS:
            # There are only so many of these.
            refusal = _Refusal("", "", "", refusal.method, refusal.code, refusal.reason)
            target = ""
        total = self._refusals.setdefault(refusal, _Sum(_now(), target))
        total.count += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._refusals_seconds, self.sum_up)

    def sum_up(self) -> None:
        """Store the sums so far. While the sink takes none, they are kept and counted on."""
        if not self._sink.available():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._refusals_seconds, self.sum_up)
            return
        self.close()

    def close(self) -> None:
        """Store the last sums even if the sink takes none, since it reports those that it loses."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        for refusal, total in self._refusals.items():
            self.put(
                {
                    "stage": "refused",
                    "user": refusal.user,
                    "on_behalf_of": refusal.on_behalf_of,
                    "host": refusal.host,
                    "method": refusal.method,
                    "code": refusal.code,
                    "reason": refusal.reason,
                    "calls": total.count,
                    "since": total.first,
                    "first_target": total.target,
                }
            )
        self._refusals.clear()


class AuditedCall:
    """The records of one call; implements `server.control.call.CallRecord`.

    `fields` are those of the call's log line, `writes` whether the method can write.
    """

    def __init__(
        self, audit: Audit, fields: Fields, peer: Callable[[], str], *, writes: bool
    ) -> None:
        self.caller: Caller = ANONYMOUS
        self._audit = audit
        self._fields = fields
        self._peer = peer
        self._writes = writes
        self._begun: dict[str, Any] = {}
        self._result: dict[str, str] = {}
        self._ended = False

    async def begin(self, caller: Caller, deadline: Deadline, target: str) -> None:
        """See `server.control.call.CallRecord`."""
        self._audit.require_available()
        user, on_behalf_of = _names_of(caller)
        self._begun = {
            "id": secrets.token_hex(8),
            "user": user,
            "on_behalf_of": on_behalf_of,
            "groups": _cut_groups(caller.groups),
            "peer": cut(_address(self._peer()), _NAME_BYTES),
            "method": self._fields["method"],
            "target": cut(target, _NAME_BYTES),
            "request_id": self._fields.get("request_id", ""),
        }
        stored = self._audit.put({"stage": "begun", **self._begun})
        await self._audit.keep(stored, min(AUDIT_SECONDS, deadline.left()), written=False)

    def note(self, **result: str) -> None:
        """See `server.control.call.CallRecord`."""
        self._result.update(result)

    async def end(self, code: str, reason: str = "", refused: str = "") -> None:
        """Store how the call ended, before it is answered. Raises AuditUnavailable.

        `refused`: the user that a refusal names, for one that comes before there is a caller.
        """
        if stored := self.put_end(code, reason, refused):
            await self._audit.keep(stored, AUDIT_SECONDS, written=True)

    def put_end(
        self, code: str, reason: str = "", refused: str = ""
    ) -> asyncio.Future[None] | None:
        """Queue the record of the end, once; None where the call did not begin to write.

        Such a call is counted if it was refused.
        """
        if self._ended:
            return None
        self._ended = True
        if self._begun:
            end = {"code": code, "reason": reason}
            return self._audit.put({"stage": "ended", **self._begun, **self._result, **end})
        if reason and (self._writes or reason in _REFUSED):
            user, on_behalf_of = _names_of(self.caller)
            host = cut(_address(self._peer()).rpartition(":")[0], _NAME_BYTES)
            user = user or cut(refused, _NAME_BYTES)
            refusal = _Refusal(user, on_behalf_of, host, self._fields["method"], code, reason)
            self._audit.count(refusal, self._fields.get("target", ""))
        return None


def _names_of(caller: Caller) -> tuple[str, str]:
    """Return the user who calls, and the one for whom, where that is another."""
    name, by = cut(caller.name, _NAME_BYTES), cut(caller.impersonated_by, _NAME_BYTES)
    return (by, name) if by else (name, "")


def _cut_groups(groups: Sequence[str]) -> list[str]:
    """Return the first groups, as many as fit."""
    shown, left = list[str](), _GROUPS_BYTES
    for group in groups:
        text = cut(group, _NAME_BYTES)
        left -= len(text.encode())
        if left < 0:
            return [*shown, f"... ({len(groups)})"]
        shown.append(text)
    return shown


def _address(peer: str) -> str:
    """Return the host and port of gRPC's name for a peer, such as `ipv6:%5B::1%5D:50051`."""
    return unquote(peer.partition(":")[2])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
