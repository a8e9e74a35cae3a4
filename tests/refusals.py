"""What a caller is told when a call fails: the code, and the details that came with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from modelservice.v1.inference_service_pb2 import Failure

M = TypeVar("M", bound=Message)

# Where the server runs and what it runs on is no caller's business; nor is a token (they all begin
# so) anybody's.
_NOT_TO_BE_TOLD = re.compile(
    r"127\.0\.0\.1|localhost|:6443|Traceback|\.py\b|aiohttp|ClientConnector|ClientOSError"
    r"|Unanswered|Unreachable|[Ee]rrno|<html|eyJhbGci"
)


@dataclass(frozen=True)
class Refusal:
    """A failed call; its details as they were sent, empty where there were none. `pushback` is the
    delay that gRPC's own retries take, None where there was none."""

    code: grpc.StatusCode
    message: str
    details: Status
    pushback: timedelta | None

    @property
    def reason(self) -> str:
        return self._detail(ErrorInfo()).reason

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self._detail(ErrorInfo()).metadata)

    @property
    def fields(self) -> list[str]:
        """The paths of the fields that are wrong."""
        return [violation.field for violation in self._detail(BadRequest()).field_violations]

    @property
    def problems(self) -> list[str]:
        """What these fields must be."""
        violations = self._detail(BadRequest()).field_violations
        return [violation.description for violation in violations]

    @property
    def retry_after(self) -> timedelta:
        return self._detail(RetryInfo()).retry_delay.ToTimedelta()

    @property
    def failure(self) -> Failure:
        return self._detail(Failure())

    def _detail(self, detail: M) -> M:
        for packed in self.details.details:
            if packed.Unpack(detail):
                break
        return detail


def refusal_of(error: Any, sent: bytes = b"") -> Refusal:
    """Read the status of a grpc.RpcError. Its details must carry the same code, and nothing of the
    server's insides but texts that the caller has `sent`."""
    metadata = dict(error.trailing_metadata() or ())
    details = Status.FromString(metadata.get("grpc-status-details-bin", b""))
    pushback = metadata.get("grpc-retry-pushback-ms")
    delay = timedelta(milliseconds=int(pushback)) if pushback else None
    refusal = Refusal(error.code(), error.details() or "", details, delay)
    if details.details:
        assert details.code == error.code().value[0]
        # A rollout that failed is told in the words of its own containers.
        ours = refusal.reason != "ROLLOUT_FAILED"
        found = _NOT_TO_BE_TOLD.findall(str(details))
        assert not (ours and any(text.encode() not in sent for text in found)), details
        assert all("must " in why for why in refusal.problems), details
    return refusal


def refused(
    code: grpc.StatusCode, reason: str, call: Callable[[Message], object], request: Message
) -> Refusal:
    """Make a blocking call that must fail with this code and reason."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request)
    refusal = refusal_of(raised.value)
    assert (refusal.code, refusal.reason) == (code, reason), refusal
    return refusal
