"""What can go wrong, by meaning. `api/` maps each reason to a gRPC status, once.

Messages are written for the caller: what happened and what to do. They never carry exception
text, host names or tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from server.domain.rollout.status import Failure
    from server.domain.service.inference_service import ServiceKey


class ErrorReason(StrEnum):
    """The contract's error reasons, without their enum's prefix."""

    FIELD_INVALID = "FIELD_INVALID"
    SPEC_INVALID = "SPEC_INVALID"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"  # noqa: S105
    RESUME_TOKEN_INVALID = "RESUME_TOKEN_INVALID"  # noqa: S105
    SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND"
    NAMESPACE_NOT_FOUND = "NAMESPACE_NOT_FOUND"
    ROLLOUT_GONE = "ROLLOUT_GONE"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND"
    ENVIRONMENT_NOT_FOUND = "ENVIRONMENT_NOT_FOUND"
    DEPLOYMENT_NOT_FOUND = "DEPLOYMENT_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    CONCURRENT_WRITE = "CONCURRENT_WRITE"
    ROLLOUT_SUPERSEDED = "ROLLOUT_SUPERSEDED"
    ROLLOUT_FAILED = "ROLLOUT_FAILED"
    SERVICE_STOPPED = "SERVICE_STOPPED"
    SERVICE_DELETING = "SERVICE_DELETING"
    NOT_MANAGED = "NOT_MANAGED"
    FIELD_CONFLICT = "FIELD_CONFLICT"
    MODE_IMMUTABLE = "MODE_IMMUTABLE"
    POLICY_REFUSED = "POLICY_REFUSED"
    NAMESPACE_TERMINATING = "NAMESPACE_TERMINATING"
    NAMESPACE_NOT_SERVED = "NAMESPACE_NOT_SERVED"
    RESERVED_NAMESPACE = "RESERVED_NAMESPACE"
    UNSUPPORTED_BY_CLUSTER = "UNSUPPORTED_BY_CLUSTER"
    UPDATES_DISABLED = "UPDATES_DISABLED"
    KSERVE_MISSING = "KSERVE_MISSING"
    SERVER_LACKS_RIGHTS = "SERVER_LACKS_RIGHTS"
    VERSION_NOT_READY = "VERSION_NOT_READY"
    VERSION_ARCHIVED = "VERSION_ARCHIVED"
    NO_DEPLOYABLE_VERSION = "NO_DEPLOYABLE_VERSION"
    ENVIRONMENT_NAMESPACE_FIXED = "ENVIRONMENT_NAMESPACE_FIXED"
    IN_USE = "IN_USE"
    REGISTRY_DISABLED = "REGISTRY_DISABLED"
    CLUSTER_UNAVAILABLE = "CLUSTER_UNAVAILABLE"
    SERVER_CREDENTIALS_REFUSED = "SERVER_CREDENTIALS_REFUSED"
    WRITE_OUTCOME_UNKNOWN = "WRITE_OUTCOME_UNKNOWN"
    WEBHOOK_UNAVAILABLE = "WEBHOOK_UNAVAILABLE"
    VIEW_NOT_READY = "VIEW_NOT_READY"
    VIEW_BEHIND = "VIEW_BEHIND"
    REGISTRY_UNAVAILABLE = "REGISTRY_UNAVAILABLE"
    SERVER_STOPPING = "SERVER_STOPPING"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    MEMORY_EXCEEDED = "MEMORY_EXCEEDED"
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    INTERNAL = "INTERNAL"


# As many as a person reads; what finds them stops there.
MOST_VIOLATIONS = 50


class FieldViolation(NamedTuple):
    """A field's path in the request, such as `spec.env[A=B]`, and what is wrong with it."""

    path: str
    why: str


def refuse_violations(found: Iterable[FieldViolation]) -> None:
    """Refuse a request that has violations. Raises FieldInvalid with the first 50; what would find
    further ones is not run."""
    if violations := list(islice(found, MOST_VIOLATIONS)):
        raise FieldInvalid(violations)


class ServiceError(Exception):
    """Anything that a caller is told as a status.

    `metadata` is for programs (ErrorInfo), the message for people. `passes`: whether trying again
    may help, where the reason is one that comes with RetryInfo.
    """

    reason: ClassVar[ErrorReason] = ErrorReason.INTERNAL
    passes: ClassVar[bool] = True

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata


class FieldInvalid(ServiceError):
    """Some fields of the request can never be right; `violations` has each with its path."""

    reason = ErrorReason.FIELD_INVALID

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{path}: {why}" for path, why in violations))
        self.violations = tuple(violations)


class SpecInvalid(ServiceError):
    """The cluster's schema or KServe's defaulting refused the spec; nothing was written."""

    reason = ErrorReason.SPEC_INVALID


class RequestIdReused(ServiceError):
    """The request_id was used before, with another body."""

    reason = ErrorReason.REQUEST_ID_REUSED


class PageTokenInvalid(ServiceError):
    """The page_token is not ours, or belongs to another List."""

    reason = ErrorReason.PAGE_TOKEN_INVALID


class ResumeTokenInvalid(ServiceError):
    """The resume_token is not ours, or belongs to another watch."""

    reason = ErrorReason.RESUME_TOKEN_INVALID


class ServiceNotFound(ServiceError):
    """No such service."""

    reason = ErrorReason.SERVICE_NOT_FOUND

    def __init__(self, key: ServiceKey) -> None:
        super().__init__(f"there is no service {key}", namespace=key.namespace, name=key.name)


class NamespaceNotFound(ServiceError):
    """The namespace of a write does not exist."""

    reason = ErrorReason.NAMESPACE_NOT_FOUND


class RolloutGone(ServiceError):
    """The awaited rollout's service was deleted, is being deleted, or was made anew."""

    reason = ErrorReason.ROLLOUT_GONE


class AlreadyExists(ServiceError):
    """`create_only`, and the service is there."""

    reason = ErrorReason.ALREADY_EXISTS


class EtagMismatch(ServiceError):
    """It is no longer what the caller's etag was read from; nothing was written."""

    reason = ErrorReason.ETAG_MISMATCH

    def __init__(self, key: object) -> None:
        super().__init__(
            f"{key} has changed since its etag was read; read it again and decide anew"
        )


class ConcurrentWrite(ServiceError):
    """Others kept writing the service between our read and our write; nothing was written."""

    reason = ErrorReason.CONCURRENT_WRITE


class RolloutSuperseded(ServiceError):
    """A newer rollout of the same service replaced the awaited one."""

    reason = ErrorReason.ROLLOUT_SUPERSEDED


class RolloutFailed(ServiceError):
    """The awaited rollout failed; `failure` says why."""

    reason = ErrorReason.ROLLOUT_FAILED

    def __init__(self, message: str, failure: Failure | None, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.failure = failure


class ServiceStopped(ServiceError):
    """The service is stopped, so the awaited rollout will not become ready."""

    reason = ErrorReason.SERVICE_STOPPED


class ServiceDeleting(ServiceError):
    """The service is being deleted: nothing can be deployed onto it."""

    reason = ErrorReason.SERVICE_DELETING

    def __init__(self, key: ServiceKey) -> None:
        super().__init__(
            f"{key} is being deleted; wait until it is gone (WatchStatus until GONE), then deploy"
        )


class NotManaged(ServiceError):
    """The service was not made by ModelService; `force` would take it over."""

    reason = ErrorReason.NOT_MANAGED

    def __init__(self, key: ServiceKey) -> None:
        super().__init__(f"{key} was not made by ModelService; set force to act on it all the same")


class FieldConflict(ServiceError):
    """Another field manager owns fields of this write; metadata: fields, owner."""

    reason = ErrorReason.FIELD_CONFLICT


class ModeImmutable(ServiceError):
    """KServe fixes the deployment mode once a service has one."""

    reason = ErrorReason.MODE_IMMUTABLE


class PolicyRefused(ServiceError):
    """An admission webhook refused the write; metadata: webhook."""

    reason = ErrorReason.POLICY_REFUSED


class NamespaceTerminating(ServiceError):
    """The namespace is being deleted."""

    reason = ErrorReason.NAMESPACE_TERMINATING


class NamespaceNotServed(ServiceError):
    """The namespace is outside of those that this server follows."""

    reason = ErrorReason.NAMESPACE_NOT_SERVED

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"this server does not serve the namespace {namespace!r}: use another one, or ask"
            " who runs this server to add it (MODELSERVICE_NAMESPACES)",
            namespace=namespace,
        )


class ReservedNamespace(ServiceError):
    """The namespace belongs to the platform, where no model is deployed."""

    reason = ErrorReason.RESERVED_NAMESPACE

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"the namespace {namespace!r} belongs to the platform: deploy to another one, or ask"
            " who runs this server to permit it (MODELSERVICE_PERMIT_RESERVED_NAMESPACES)",
            namespace=namespace,
        )


class UnsupportedByCluster(ServiceError):
    """The cluster behind this server cannot do what was asked; the message says what instead."""

    reason = ErrorReason.UNSUPPORTED_BY_CLUSTER


class UpdatesDisabled(ServiceError):
    """The service carries serving.kserve.io/disable-auto-update."""

    reason = ErrorReason.UPDATES_DISABLED


class KServeMissing(ServiceError):
    """The cluster has no InferenceService resource, or is about to have none."""

    reason = ErrorReason.KSERVE_MISSING


class ServerLacksRights(ServiceError):
    """ModelService itself may not do this; metadata: verb, resource."""

    reason = ErrorReason.SERVER_LACKS_RIGHTS


class ClusterUnavailable(ServiceError):
    """The API server cannot be reached; nothing was written."""

    reason = ErrorReason.CLUSTER_UNAVAILABLE


class ServerCredentialsRefused(ClusterUnavailable):
    """The API server does not take ModelService's own credentials; nothing was written."""

    reason = ErrorReason.SERVER_CREDENTIALS_REFUSED


class WriteOutcomeUnknown(ServiceError):
    """The write was sent and not answered: it may or may not be stored."""

    reason = ErrorReason.WRITE_OUTCOME_UNKNOWN


class WebhookUnavailable(ServiceError):
    """An admission webhook of the cluster does not answer, so that nothing can be written."""

    reason = ErrorReason.WEBHOOK_UNAVAILABLE


class ViewNotReady(ServiceError):
    """The first listing of the cluster has not finished."""

    reason = ErrorReason.VIEW_NOT_READY


class ViewBehind(ServiceError):
    """This replica has not yet seen the named rollout, though it is in the cluster."""

    reason = ErrorReason.VIEW_BEHIND


class ServerStopping(ServiceError):
    """This server is going down; another one, or this one again, will answer."""

    reason = ErrorReason.SERVER_STOPPING


class QuotaExceeded(ServiceError):
    """A quota of the namespace leaves no room for the object itself."""

    reason = ErrorReason.QUOTA_EXCEEDED


class MemoryExceeded(ServiceError):
    """The services that this server follows have all the memory that they may; nothing was
    written."""

    reason = ErrorReason.MEMORY_EXCEEDED

    def __init__(self, held: int, added: int, most: int) -> None:
        super().__init__(
            f"the services that this server follows must have at most {most} bytes of memory, have"
            f" {held}, and this Deploy would add {added}: delete services or make them smaller, or"
            " ask who runs the server for more (MODELSERVICE_SERVICES_MEMORY)",
            held=str(held),
            added=str(added),
            most=str(most),
        )


class TooManyRequests(ServiceError):
    """The API server asks to slow down, or this server has too many calls open; nothing was
    written."""

    reason = ErrorReason.TOO_MANY_REQUESTS


class TooManyStreams(ServiceError):
    """This server has too many streams open."""

    reason = ErrorReason.TOO_MANY_STREAMS
