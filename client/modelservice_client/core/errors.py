"""The errors that a client raises, and their translation from a gRPC status."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import Failure, InferenceService

from modelservice_client.core.enum_names import enum_name

_DOMAIN = "modelservice"
_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_LONGEST_TEXT = 4096

# The codes of a lost connection, a proxy, or a server that hangs, where there is no reason.
_LOST = (
    StatusCode.UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.CANCELLED,
)
# gRPC says only in its text that there was no connection, so that nothing was sent.
_NOT_SENT = ("failed to connect to all addresses", "errors resolving ", "DNS resolution failed")
# The words for a server with TLS that is called in plaintext.
SPEAKS_TLS = "the server speaks TLS"
# What servers say that ask for a client certificate, or do not take the one that they got.
REFUSING_ALERTS = (
    "_ALERT_CERTIFICATE_",
    "_ALERT_BAD_CERTIFICATE",
    "_ALERT_UNKNOWN_CA",
    "_ALERT_HANDSHAKE_FAILURE",
)
_OWN_CERTIFICATE = "give a client certificate that the server takes: cert_file and key_file of Tls"
# The words for handshakes that fail again however often they are tried, and what to do. The first
# ones that are found count.
_TLS_REMEDIES = {
    "certificate has expired": "the server's certificate must be renewed, or this machine's clock"
    " set",
    "certificate is not yet valid": "the server's certificate begins later: set the clock of this"
    " machine, or of the one that made it",
    "CERTIFICATE_VERIFY_FAILED": "trust the authority of the server's certificate: ca_file of Tls",
    "WRONG_VERSION_NUMBER": "the server speaks no TLS there: use tls=False, or its port with TLS",
    "Hostname Verification Check": "name the host as its certificate does: server_name of Tls",
    SPEAKS_TLS: "use tls=True, or a Tls with the authority of its certificate",
    **dict.fromkeys(REFUSING_ALERTS, _OWN_CERTIFICATE),
}


class FieldViolation(NamedTuple):
    """A refused field: its path, such as `spec.scaling.max_replicas`, and what it must be."""

    path: str
    description: str


class ModelServiceError(Exception):
    """A call failed. The base of every error that a client raises for a call.

    code: the gRPC status code.
    reason: the ErrorReason without its prefix, such as "ETAG_MISMATCH"; empty where the error does
        not come from ModelService. Subclasses stand for reasons; new reasons get the class of their
        code, or this one.
    message: the server's explanation.
    details: the things concerned by name, as the reason's comment in errors.proto lists them.
    violations: the refused fields of an INVALID_ARGUMENT.
    retry_after: the seconds after which the server expects the same request to succeed; None where
        it does not. The client has already waited and tried again within the call's timeout.
    service: the state of the service that was received last, where one was awaited.
    request_id: the request_id of a Deploy, a rollback, a stop or a start. The same call with it
        continues the same rollout.
    earlier_attempt_lost: an attempt of this write was sent and not answered, so that it may have
        been done: an ETAG_MISMATCH or ALREADY_EXISTS can be about this call's own write.
    timed_out: the timeout of the call has ended its attempts; another one might have succeeded.
    """

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode = StatusCode.UNKNOWN,
        reason: str = "",
        details: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        failure: Failure | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.details = dict(details or {})
        self.violations = violations
        self.failure = failure
        self.retry_after = retry_after
        self.service: InferenceService | None = None
        self.request_id = ""
        self.earlier_attempt_lost = False
        self.timed_out = False

    def __str__(self) -> str:
        lines = [f"{' '.join(filter(None, (self.code.name, self.reason)))}: {self.message}"]
        violations = [f"{path}: {description}" for path, description in self.violations]
        # The message mostly consists of them.
        lines += [line for line in violations if line not in self.message]
        if failure := self.failure:
            name = enum_name(Failure.Reason, failure.reason, "REASON_")
            lines.append(f"{name}: {failure.message}")
            if failure.remedy:
                lines.append(f"remedy: {failure.remedy}")
            lines += [f"  | {line}" for line in failure.log_lines]
        if self.earlier_attempt_lost:
            lines.append("an attempt of this call was not answered, and may have been done")
        return "\n".join(lines)

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later by itself."""
        return self.retry_after is not None


class NotReachable(ModelServiceError):
    """No server answered: there is no connection, it was cut, or a proxy answered in its place.

    It is raised after `patience` without an answer or at the call's timeout, at once where the TLS
    handshake fails for good, and after some seconds where a server with TLS is called in plaintext.
    `code` is the one that gRPC gave last, and the exception's cause has gRPC's own text. `silence`:
    the seconds since the last answer, or since the call began.
    `closed_after_handshake`: a server that has never answered has closed this connection once the
    TLS handshake was complete; it is raised after some seconds of that.
    """

    silence = 0.0
    closed_after_handshake = False

    @property
    def passes(self) -> bool:
        """Whether another attempt can help."""
        return not self.tls_remedy

    @property
    def tls_remedy(self) -> str:
        """What to do where the TLS handshake fails for good, else empty."""
        remedies = (remedy for text, remedy in _TLS_REMEDIES.items() if text in self._grpc_text)
        return next(remedies, "")

    @property
    def speaks_tls(self) -> bool:
        """Whether a server that closes connections in plaintext understands a TLS handshake."""
        return SPEAKS_TLS in self._grpc_text

    @property
    def _grpc_text(self) -> str:
        cause = self.__cause__
        return cause.message if isinstance(cause, NotReachable) else self.message

    @property
    def was_sent(self) -> bool:
        """Whether the request may have reached a server."""
        return self.code is not StatusCode.UNAVAILABLE or not self._grpc_text.startswith(_NOT_SENT)


class ClientClosed(ModelServiceError):
    """The client was closed before the call ended."""


class Timeout(ModelServiceError):
    """The wait was not decided within its timeout. `service` is the last state. The rollout goes
    on: wait again for it."""


class RolloutEnded(ModelServiceError):
    """The awaited rollout cannot become ready. `service` is the state that decided it."""


class RolloutFailed(RolloutEnded):
    """The awaited rollout failed; `failure` says why, with a remedy and log lines. If
    `failure.retrying`, it can still recover.

    rollback_error: why the service was not rolled back, where rollback_on_failure asked for it:
        such as NoReadyRevision, or Superseded, since a newer rollout is not undone.
    """

    failure: Failure

    def __init__(self, message: str, *, failure: Failure | None = None, **others: object) -> None:
        super().__init__(message, failure=failure or Failure(), **others)  # type: ignore[arg-type]
        self.rollback_error: ModelServiceError | None = None

    def __str__(self) -> str:
        lines = [super().__str__()]
        if why := self.rollback_error:
            lines.append(f"not rolled back: {why}")
        return "\n".join(lines)


class RolledBack(RolloutFailed):
    """The awaited rollout failed, and the service was rolled back: the last revision that was ready
    serves again.

    restored: the service as it is now; `service` is the state that failed.
    revision: the number of the revision that it went back to; 0 where that cannot be read.
    """

    def __init__(self, failed: RolloutFailed, restored: InferenceService, revision: int) -> None:
        super().__init__(
            failed.message,
            failure=failed.failure,
            code=failed.code,
            reason=failed.reason,
            details=failed.details,
        )
        self.service = failed.service
        self.request_id = failed.request_id
        self.restored = restored
        self.revision = revision

    def __str__(self) -> str:
        where = f"revision {self.revision}" if self.revision else "the last revision that was ready"
        return f"{super().__str__()}\nrolled back: {where} serves again"


class Superseded(RolloutEnded):
    """A newer rollout of the same service replaced the awaited one."""


class ServiceStopped(RolloutEnded):
    """The service is stopped, so that the awaited rollout does not become ready."""


class ServiceDeleted(RolloutEnded):
    """The service of the awaited rollout is gone, is being deleted, or was created again."""


class InvalidRequest(ModelServiceError):
    """The request breaks a rule; `violations` has the fields. Nothing was written."""


class RequestIdReused(InvalidRequest):
    """The request_id was used for another Deploy before."""


class NotFound(ModelServiceError):
    """What the request names does not exist: a namespace, a model, a version, an environment."""


class ServiceNotFound(NotFound):
    """There is no such service."""


class RevisionNotFound(NotFound):
    """The service has no such revision, or its content is not known. `list_revisions` has them."""


class AlreadyExists(ModelServiceError):
    """There is a service, or a resource of the registry, of that name."""


class Refused(ModelServiceError):
    """The request is valid, and the present state does not allow it; `reason` says which."""


class ServiceDeleting(Refused):
    """The service is being deleted. Deploy after `wait_gone`."""


class NotManaged(Refused):
    """Another client created the service. `force` takes it over."""


class NoReadyRevision(Refused):
    """No earlier revision of the service was ready, so that there is none to go back to."""


class FieldConflict(Refused):
    """Another client set fields that the Deploy would change. `force` takes them over."""


class Conflict(ModelServiceError):
    """Somebody else wrote at the same time."""


class EtagMismatch(Conflict):
    """The resource has changed since its etag was read. Read it again and decide again."""


class PermissionDenied(ModelServiceError):
    """The caller may not do this."""


class Unauthenticated(ModelServiceError):
    """The call carried no valid credentials, or had no token to carry in time."""


class ResourceExhausted(ModelServiceError):
    """A quota or a limit is reached; with `retry_after` it passes by itself."""


class Unavailable(ModelServiceError):
    """The server answers that it cannot serve this now: it starts or stops, or has lost the cluster
    or the registry's database."""


class ServerError(ModelServiceError):
    """A bug in the server."""


_BY_REASON: Mapping[str, type[ModelServiceError]] = {
    "REQUEST_ID_REUSED": RequestIdReused,
    "SERVICE_NOT_FOUND": ServiceNotFound,
    "REVISION_NOT_FOUND": RevisionNotFound,
    "ROLLOUT_GONE": ServiceDeleted,
    "ROLLOUT_FAILED": RolloutFailed,
    "ROLLOUT_SUPERSEDED": Superseded,
    "SERVICE_STOPPED": ServiceStopped,
    "SERVICE_DELETING": ServiceDeleting,
    "NOT_MANAGED": NotManaged,
    "FIELD_CONFLICT": FieldConflict,
    "NO_READY_REVISION": NoReadyRevision,
    "ETAG_MISMATCH": EtagMismatch,
}
_BY_CODE: Mapping[StatusCode, type[ModelServiceError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidRequest,
    StatusCode.NOT_FOUND: NotFound,
    StatusCode.ALREADY_EXISTS: AlreadyExists,
    StatusCode.FAILED_PRECONDITION: Refused,
    StatusCode.ABORTED: Conflict,
    StatusCode.PERMISSION_DENIED: PermissionDenied,
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.INTERNAL: ServerError,
}


def error_of(
    code: StatusCode, message: str, metadata: Iterable[tuple[str, str | bytes]]
) -> ModelServiceError:
    """Translate a gRPC status with its trailing metadata. Details that cannot be read are left
    out; texts are cut to 4 KiB."""
    found = _read_details(metadata)
    text = message if len(message) <= _LONGEST_TEXT else message[:_LONGEST_TEXT] + "..."
    if found.info.domain != _DOMAIN and code in _LOST:
        return NotReachable(text, code=code, retry_after=found.retry_after)
    reason = found.info.reason if found.info.domain == _DOMAIN else ""
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code) or ModelServiceError
    return kind(
        text,
        code=code,
        reason=reason,
        details=found.info.metadata,
        violations=found.violations,
        failure=found.failure,
        retry_after=found.retry_after,
    )


@dataclass
class _Details:
    info: ErrorInfo = field(default_factory=ErrorInfo)
    violations: tuple[FieldViolation, ...] = ()
    failure: Failure | None = None
    retry_after: float | None = None


def _read_details(metadata: Iterable[tuple[str, str | bytes]]) -> _Details:
    found = _Details()
    for key, value in metadata:
        if key == _PUSHBACK_KEY:
            found.retry_after = found.retry_after or _pushback_seconds(value)
        elif key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                for detail in Status.FromString(value).details:
                    _read_detail(detail, found)
            except DecodeError:
                continue
    return found


def _read_detail(detail: Any, found: _Details) -> None:
    retry, request, failure = RetryInfo(), BadRequest(), Failure()
    if detail.Unpack(found.info):
        return
    if detail.Unpack(retry):
        found.retry_after = max(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9, 0.0)
    elif detail.Unpack(request):
        found.violations = tuple(
            FieldViolation(violation.field, violation.description)
            for violation in request.field_violations
        )
    elif detail.Unpack(failure):
        found.failure = failure


def _pushback_seconds(value: str | bytes) -> float | None:
    """Read gRPC's delay in milliseconds. A negative one, or none, means not to retry."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return int(text) / 1000 if re.fullmatch("[0-9]{1,9}", text) else None
