"""Map errors to the statuses that callers get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from modelservice.v1.errors_pb2 import ErrorReason as Contract
from modelservice.v1.inference_service_pb2 import Failure

from server.api.services import failure_message
from server.domain.errors import ErrorReason, FieldInvalid, RolloutFailed, ServiceError
from server.domain.rollout.container_output import without_controls

DOMAIN = "modelservice"
_DETAILS_KEY = "grpc-status-details-bin"
# RetryInfo's delay for gRPC's own retries, which do not read details (gRPC proposal A6).
_PUSHBACK_KEY = "grpc-retry-pushback-ms"

# Many clients refuse more than 8 KiB of trailing metadata. The details travel in base64, and the
# message once more beside them, percent-encoded.
_MESSAGE_BYTES = 512
_STATUS_BYTES = 4096
_DETAIL_BYTES = 2560


# How long callers wait before they send the same request again.
_RETRY_DELAYS: Mapping[ErrorReason, timedelta] = {
    ErrorReason.TOO_MANY_STREAMS: timedelta(seconds=2),
    ErrorReason.TOO_MANY_REQUESTS: timedelta(seconds=2),
    ErrorReason.CONCURRENT_WRITE: timedelta(seconds=1),
    ErrorReason.CLUSTER_UNAVAILABLE: timedelta(seconds=2),
    # Renewing them is tried again every 30 s.
    ErrorReason.SERVER_CREDENTIALS_REFUSED: timedelta(seconds=30),
    ErrorReason.WRITE_OUTCOME_UNKNOWN: timedelta(seconds=1),
    ErrorReason.WEBHOOK_UNAVAILABLE: timedelta(seconds=5),
    ErrorReason.VIEW_NOT_READY: timedelta(seconds=1),
    ErrorReason.VIEW_BEHIND: timedelta(seconds=1),
    ErrorReason.REGISTRY_UNAVAILABLE: timedelta(seconds=2),
    ErrorReason.SERVER_STOPPING: timedelta(seconds=1),
    ErrorReason.AUDIT_UNAVAILABLE: timedelta(seconds=2),
}
_CODES = {code.value[0]: code for code in StatusCode}


def code_of(error: ServiceError) -> StatusCode:
    """Derive the gRPC code from the reason's number in the protos, which is 100 times the code plus
    a count."""
    return _CODES[Contract.Value(f"ERROR_REASON_{error.reason.value}") // 100]


def message_of(error: ServiceError) -> str:
    """Return the message of the status, cut to fit into any client's metadata."""
    return cut(error.message, _MESSAGE_BYTES)


def status_of(error: ServiceError) -> Status:
    """Return the status with its details, ErrorInfo first, within any client's metadata limit."""
    code_number: int = code_of(error).value[0]
    status = Status(code=code_number, message=message_of(error))
    for detail in _details(error):
        packed = Any()
        packed.Pack(detail)
        if status.ByteSize() + packed.ByteSize() <= _STATUS_BYTES:
            status.details.append(packed)
    return status


def trailing_metadata(error: ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the status' details, and RetryInfo's delay in milliseconds for clients whose gRPC
    retries by itself."""
    details = (_DETAILS_KEY, status_of(error).SerializeToString())
    if delay := _retry_delay(error):
        return details, (_PUSHBACK_KEY, str(delay // timedelta(milliseconds=1)))
    return (details,)


def _retry_delay(error: ServiceError) -> timedelta | None:
    return _RETRY_DELAYS.get(error.reason) if error.passes else None


def _details(error: ServiceError) -> Iterator[Message]:
    metadata = {key: cut(value, _MESSAGE_BYTES) for key, value in error.metadata.items()}
    yield ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata)
    if delay := _retry_delay(error):
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
    """Cut a text to `limit` bytes of UTF-8, without a terminal's control sequences. Characters that
    UTF-8 cannot express are replaced."""
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    # No more of a long text than can be shown is worked on.
    plain = without_controls(text[: 4 * limit])
    encoded = plain.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "..."
