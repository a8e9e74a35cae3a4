"""The one table from what went wrong to the status that a caller gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import Failure

from server.api.statuses import failure_message
from server.domain.container_output import without_controls
from server.domain.errors import ErrorReason, FieldInvalid, RolloutFailed, ServiceError

DOMAIN = "modelservice"
DETAILS_KEY = "grpc-status-details-bin"

# Many clients refuse more than 8 KiB of trailing metadata, and binary details travel in base64,
# with the message once more beside them, percent-encoded.
_MESSAGE_BYTES = 512
_STATUS_BYTES = 4096
_DETAIL_BYTES = 2560


class _Meaning(NamedTuple):
    code: StatusCode
    retry_after: timedelta | None = None


def _passing(code: StatusCode, seconds: float) -> _Meaning:
    return _Meaning(code, timedelta(seconds=seconds))


_MEANINGS: Mapping[ErrorReason, _Meaning] = {
    ErrorReason.FIELD_INVALID: _Meaning(StatusCode.INVALID_ARGUMENT),
    ErrorReason.SPEC_INVALID: _Meaning(StatusCode.INVALID_ARGUMENT),
    ErrorReason.REQUEST_ID_REUSED: _Meaning(StatusCode.INVALID_ARGUMENT),
    ErrorReason.PAGE_TOKEN_INVALID: _Meaning(StatusCode.INVALID_ARGUMENT),
    ErrorReason.RESUME_TOKEN_INVALID: _Meaning(StatusCode.INVALID_ARGUMENT),
    ErrorReason.SERVICE_NOT_FOUND: _Meaning(StatusCode.NOT_FOUND),
    ErrorReason.NAMESPACE_NOT_FOUND: _Meaning(StatusCode.NOT_FOUND),
    ErrorReason.ROLLOUT_GONE: _Meaning(StatusCode.NOT_FOUND),
    ErrorReason.MODEL_NOT_FOUND: _Meaning(StatusCode.NOT_FOUND),
    ErrorReason.VERSION_NOT_FOUND: _Meaning(StatusCode.NOT_FOUND),
    ErrorReason.ENVIRONMENT_NOT_FOUND: _Meaning(StatusCode.NOT_FOUND),
    ErrorReason.DEPLOYMENT_NOT_FOUND: _Meaning(StatusCode.NOT_FOUND),
    ErrorReason.ALREADY_EXISTS: _Meaning(StatusCode.ALREADY_EXISTS),
    ErrorReason.QUOTA_EXCEEDED: _Meaning(StatusCode.RESOURCE_EXHAUSTED),
    ErrorReason.TOO_MANY_STREAMS: _passing(StatusCode.RESOURCE_EXHAUSTED, 2),
    ErrorReason.TOO_MANY_REQUESTS: _passing(StatusCode.RESOURCE_EXHAUSTED, 2),
    ErrorReason.ROLLOUT_FAILED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.SERVICE_STOPPED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.SERVICE_DELETING: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.NOT_MANAGED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.FIELD_CONFLICT: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.MODE_IMMUTABLE: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.POLICY_REFUSED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.NAMESPACE_TERMINATING: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.NAMESPACE_NOT_SERVED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.RESERVED_NAMESPACE: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.UNSUPPORTED_BY_CLUSTER: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.UPDATES_DISABLED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.KSERVE_MISSING: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.SERVER_LACKS_RIGHTS: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.VERSION_NOT_READY: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.VERSION_ARCHIVED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.NO_DEPLOYABLE_VERSION: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.ENVIRONMENT_NAMESPACE_FIXED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.IN_USE: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.REGISTRY_DISABLED: _Meaning(StatusCode.FAILED_PRECONDITION),
    ErrorReason.ETAG_MISMATCH: _Meaning(StatusCode.ABORTED),
    ErrorReason.CONCURRENT_WRITE: _passing(StatusCode.ABORTED, 1),
    ErrorReason.ROLLOUT_SUPERSEDED: _Meaning(StatusCode.ABORTED),
    ErrorReason.INTERNAL: _Meaning(StatusCode.INTERNAL),
    ErrorReason.CLUSTER_UNAVAILABLE: _passing(StatusCode.UNAVAILABLE, 2),
    ErrorReason.WRITE_OUTCOME_UNKNOWN: _passing(StatusCode.UNAVAILABLE, 1),
    ErrorReason.WEBHOOK_UNAVAILABLE: _passing(StatusCode.UNAVAILABLE, 5),
    ErrorReason.VIEW_NOT_READY: _passing(StatusCode.UNAVAILABLE, 1),
    ErrorReason.VIEW_BEHIND: _passing(StatusCode.UNAVAILABLE, 1),
    ErrorReason.REGISTRY_UNAVAILABLE: _passing(StatusCode.UNAVAILABLE, 2),
    ErrorReason.SERVER_STOPPING: _passing(StatusCode.UNAVAILABLE, 1),
}


def code_of(error: ServiceError) -> StatusCode:
    """The gRPC code that an error is told by."""
    return _MEANINGS[error.reason].code


def status_of(error: ServiceError) -> Status:
    """The status with its details, ErrorInfo first; small enough for any client's metadata."""
    code_number: int = code_of(error).value[0]
    status = Status(code=code_number, message=cut(error.message, _MESSAGE_BYTES))
    for detail in _details(error):
        packed = Any()
        packed.Pack(detail)
        if status.ByteSize() + packed.ByteSize() <= _STATUS_BYTES:
            status.details.append(packed)
    return status


def _details(error: ServiceError) -> Iterator[Message]:
    metadata = {key: cut(value, _MESSAGE_BYTES) for key, value in error.metadata.items()}
    yield ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata)
    if (delay := _MEANINGS[error.reason].retry_after) and error.passes:
        retry = RetryInfo()
        retry.retry_delay.FromTimedelta(delay)
        yield retry
    if isinstance(error, FieldInvalid):
        yield _bad_request(error)
    if isinstance(error, RolloutFailed) and error.failure:
        yield _shortened(failure_message(error.failure))


def _bad_request(error: FieldInvalid) -> BadRequest:
    request = BadRequest()
    for path, why in error.violations:
        request.field_violations.add(
            field=cut(path, _MESSAGE_BYTES), description=cut(why, _MESSAGE_BYTES)
        )
        if request.ByteSize() > _DETAIL_BYTES:
            del request.field_violations[-1]
            break
    return request


def _shortened(failure: Failure) -> Failure:
    failure.message = cut(failure.message, 2 * _MESSAGE_BYTES)
    while failure.log_lines and failure.ByteSize() > _DETAIL_BYTES:
        del failure.log_lines[0]
    return failure


def cut(text: str, limit: int) -> str:
    """The text within `limit` bytes of UTF-8, what that cannot express replaced, and without what
    a terminal would take for commands."""
    # Of a long text only what may be shown is looked at.
    plain = without_controls(text[: 4 * limit])
    encoded = plain.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "..."
