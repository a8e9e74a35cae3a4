"""The errors that callers get. `api/` maps each reason to a gRPC status.

Messages are for the caller: what happened and what to do. They never contain exception texts, host
names or tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from server.domain.caller import Access, Caller
    from server.domain.rollout.status import Failure
    from server.domain.service.inference_service import ServiceKey


class ErrorReason(StrEnum):
    """The API's error reasons, without the prefix of their enum."""

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
    REVISION_NOT_FOUND = "REVISION_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    CONCURRENT_WRITE = "CONCURRENT_WRITE"
    ROLLOUT_SUPERSEDED = "ROLLOUT_SUPERSEDED"
    ROLLOUT_FAILED = "ROLLOUT_FAILED"
    SERVICE_STOPPED = "SERVICE_STOPPED"
    NO_READY_REVISION = "NO_READY_REVISION"
    SERVICE_NOT_STOPPING = "SERVICE_NOT_STOPPING"
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
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    MEMORY_EXCEEDED = "MEMORY_EXCEEDED"
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    INTERNAL = "INTERNAL"
    UNAUTHENTICATED = "UNAUTHENTICATED"


# More than this nobody reads, so validation stops there.
MOST_VIOLATIONS = 50


class FieldViolation(NamedTuple):
    """A field's path in the request, such as `spec.env["A=B"]`, and what it must be."""

    path: str
    why: str


def refuse_violations(found: Iterable[FieldViolation]) -> None:
    """Refuse a request that has violations. Raises FieldInvalid with the first 50, without looking
    for more."""
    if violations := list(islice(found, MOST_VIOLATIONS)):
        raise FieldInvalid(violations)


class ServiceError(Exception):
    """An error that a caller gets as a status.

    `metadata` is for programs (ErrorInfo), the message for people. `passes`: a retry may help, if
    the reason comes with RetryInfo.
    """

    reason: ClassVar[ErrorReason] = ErrorReason.INTERNAL
    passes: ClassVar[bool] = True

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata


class FieldInvalid(ServiceError):
    """Fields of the request are invalid; `violations` has each with its path."""

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
    """The page_token is not one of this server, or belongs to another List."""

    reason = ErrorReason.PAGE_TOKEN_INVALID


class ResumeTokenInvalid(ServiceError):
    """The resume_token is not one of this server, or belongs to another watch."""

    reason = ErrorReason.RESUME_TOKEN_INVALID


class ServiceNotFound(ServiceError):
    """No such service."""

    reason = ErrorReason.SERVICE_NOT_FOUND

    def __init__(self, key: ServiceKey) -> None:
        super().__init__(f"there is no service {key}", namespace=key.namespace, name=key.name)


class RevisionNotFound(ServiceError):
    """The service has no such revision, or its content is not known."""

    reason = ErrorReason.REVISION_NOT_FOUND


class NamespaceNotFound(ServiceError):
    """The namespace of a write does not exist."""

    reason = ErrorReason.NAMESPACE_NOT_FOUND


class RolloutGone(ServiceError):
    """The awaited rollout's service was deleted, is being deleted, or was created again."""

    reason = ErrorReason.ROLLOUT_GONE


class AlreadyExists(ServiceError):
    """The service exists, and `create_only` is set; or a name is taken."""

    reason = ErrorReason.ALREADY_EXISTS


class PermissionDenied(ServiceError):
    """The caller lacks a right. `check` says how to check or get it.

    It is raised before anything is looked up, and depends on nothing that is stored.
    """

    reason = ErrorReason.PERMISSION_DENIED

    def __init__(self, caller: Caller, access: Access, check: str) -> None:
        super().__init__(
            f"the user {caller.name!a} may not {access}; {check}",
            user=caller.name,
            verb=access.verb,
            resource=access.resource,
            namespace=access.namespace,
            **({"project": access.project} if access.project else {}),
        )
        self.access = access


class EtagMismatch(ServiceError):
    """The resource has changed since its etag was read; nothing was written."""

    reason = ErrorReason.ETAG_MISMATCH

    def __init__(self, key: object) -> None:
        super().__init__(
            f"{key} has changed since its etag was read; read it again and decide again"
        )


class ConcurrentWrite(ServiceError):
    """Other clients kept writing the service between read and write; nothing was written."""

    reason = ErrorReason.CONCURRENT_WRITE


class RolloutSuperseded(ServiceError):
    """A newer rollout of the same service replaced the awaited one."""

    reason = ErrorReason.ROLLOUT_SUPERSEDED


class RolloutFailed(ServiceError):
    """The awaited rollout failed; `failure` has the cause."""

    reason = ErrorReason.ROLLOUT_FAILED

    def __init__(self, message: str, failure: Failure | None, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.failure = failure


class ServiceStopped(ServiceError):
    """The service is stopped, so the awaited rollout will not become ready."""

    reason = ErrorReason.SERVICE_STOPPED


class NoReadyRevision(ServiceError):
    """A rollback has no revision to go to: none was READY with another content."""

    reason = ErrorReason.NO_READY_REVISION


class ServiceNotStopping(ServiceError):
    """A wait is for the service to be stopped, and nothing asks it to stop."""

    reason = ErrorReason.SERVICE_NOT_STOPPING


class ServiceDeleting(ServiceError):
    """The service is being deleted: nothing can be deployed onto it."""

    reason = ErrorReason.SERVICE_DELETING

    def __init__(self, key: ServiceKey) -> None:
        super().__init__(
            f"{key} is being deleted; wait until it is gone (WatchStatus until GONE), then deploy"
        )


class NotManaged(ServiceError):
    """ModelService did not create the service; `force` would take it over."""

    reason = ErrorReason.NOT_MANAGED

    def __init__(self, key: ServiceKey) -> None:
        super().__init__(f"ModelService did not create {key}; set force to change it nevertheless")


class FieldConflict(ServiceError):
    """Another field manager owns fields of this write; metadata: fields, owner."""

    reason = ErrorReason.FIELD_CONFLICT


class ModeImmutable(ServiceError):
    """The deployment mode of a service cannot change."""

    reason = ErrorReason.MODE_IMMUTABLE


class PolicyRefused(ServiceError):
    """An admission webhook refused the write; metadata: webhook."""

    reason = ErrorReason.POLICY_REFUSED


class Unauthenticated(ServiceError):
    """The call has no valid credentials; the message says which ones are needed."""

    reason = ErrorReason.UNAUTHENTICATED


class NamespaceTerminating(ServiceError):
    """The namespace is being deleted."""

    reason = ErrorReason.NAMESPACE_TERMINATING


class NamespaceNotServed(ServiceError):
    """This server does not serve the namespace."""

    reason = ErrorReason.NAMESPACE_NOT_SERVED

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"this server does not serve the namespace {namespace!r}: use another one, or ask"
            " the operator of this server to add it (MODELSERVICE_NAMESPACES)",
            namespace=namespace,
        )


class ReservedNamespace(ServiceError):
    """The namespace belongs to the platform; no model is deployed there."""

    reason = ErrorReason.RESERVED_NAMESPACE

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"the namespace {namespace!r} belongs to the platform: deploy to another one, or ask"
            " the operator of this server to permit it (MODELSERVICE_PERMIT_RESERVED_NAMESPACES)",
            namespace=namespace,
        )


class UnsupportedByCluster(ServiceError):
    """The cluster does not support the request; the message says what to do instead."""

    reason = ErrorReason.UNSUPPORTED_BY_CLUSTER


class UpdatesDisabled(ServiceError):
    """The service has the annotation serving.kserve.io/disable-auto-update."""

    reason = ErrorReason.UPDATES_DISABLED


class KServeMissing(ServiceError):
    """The cluster has no InferenceService resource, or it is being removed."""

    reason = ErrorReason.KSERVE_MISSING


class ServerLacksRights(ServiceError):
    """ModelService's own account lacks a right; metadata: verb, resource."""

    reason = ErrorReason.SERVER_LACKS_RIGHTS


class ClusterUnavailable(ServiceError):
    """The API server cannot be reached; nothing was written."""

    reason = ErrorReason.CLUSTER_UNAVAILABLE


class ServerCredentialsRefused(ClusterUnavailable):
    """The API server does not accept ModelService's own credentials; nothing was written."""

    reason = ErrorReason.SERVER_CREDENTIALS_REFUSED


class WriteOutcomeUnknown(ServiceError):
    """The write was sent and not answered: it may have taken effect."""

    reason = ErrorReason.WRITE_OUTCOME_UNKNOWN


class WebhookUnavailable(ServiceError):
    """An admission webhook of the cluster does not answer; nothing was written."""

    reason = ErrorReason.WEBHOOK_UNAVAILABLE


class ViewNotReady(ServiceError):
    """The first list of the cluster's services is not complete."""

    reason = ErrorReason.VIEW_NOT_READY


class ViewBehind(ServiceError):
    """This replica has not seen the given rollout yet, though the cluster has it."""

    reason = ErrorReason.VIEW_BEHIND


class ServerStopping(ServiceError):
    """This server is stopping; another replica will answer, or this one after its restart."""

    reason = ErrorReason.SERVER_STOPPING


class AuditUnavailable(ServiceError):
    """The audit record of a write cannot be stored; metadata: written, "true" or "false"."""

    reason = ErrorReason.AUDIT_UNAVAILABLE

    def __init__(self, *, written: bool) -> None:
        super().__init__(
            "it is done, but the server cannot store how it ended in its audit record yet"
            if written
            else "the server cannot store its audit record, so nothing was written: try again",
            written=str(written).lower(),
        )


class QuotaExceeded(ServiceError):
    """A quota of the namespace leaves no room for the object itself."""

    reason = ErrorReason.QUOTA_EXCEEDED


class MemoryExceeded(ServiceError):
    """The services that this server follows have reached their memory limit; nothing was
    written."""

    reason = ErrorReason.MEMORY_EXCEEDED

    def __init__(self, held: int, added: int, most: int) -> None:
        super().__init__(
            f"the services that this server follows must take at most {most} bytes of memory, take"
            f" {held}, and this Deploy would add {added}: delete services or make them smaller, or"
            " ask the operator of this server for more (MODELSERVICE_SERVICES_MEMORY)",
            held=str(held),
            added=str(added),
            most=str(most),
        )


class TooManyRequests(ServiceError):
    """The API server asks clients to slow down, or this server has too many open calls; nothing was
    written."""

    reason = ErrorReason.TOO_MANY_REQUESTS


class TooManyStreams(ServiceError):
    """This server has too many open streams."""

    reason = ErrorReason.TOO_MANY_STREAMS
