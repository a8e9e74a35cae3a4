"""Translate the API server's answers into the domain's errors.

The meaning is in the code, the reason, or only in the text. Texts of Kubernetes and of admission
webhooks about the spec are passed on; texts with addresses or account names are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from server.adapters.kserve.client import Answer, NoCredentials
from server.adapters.kserve.informers.collections import Resource
from server.adapters.kserve.names import RESOURCE
from server.domain.errors import (
    ClusterUnavailable,
    FieldConflict,
    KServeMissing,
    ModeImmutable,
    NamespaceNotFound,
    NamespaceTerminating,
    PolicyRefused,
    QuotaExceeded,
    ServerCredentialsRefused,
    ServerLacksRights,
    ServiceError,
    ServiceNotFound,
    SpecInvalid,
    TooManyRequests,
    UnsupportedByCluster,
    WebhookUnavailable,
    WriteOutcomeUnknown,
)
from server.domain.service.inference_service import ServiceKey

_DENIED = re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request:? ?(?P<why>.*)', re.S)
_POLICY = re.compile(
    r"ValidatingAdmissionPolicy '(?P<name>[^']+)' with binding '[^']*' denied request: (?P<why>.*)",
    re.S,
)
_MODE_CHANGED = re.compile(r"deploymentMode cannot be changed from '(\w+)' to '(\w+)'")
_TWO_PREDICTORS = "exactly one of ["
_LACKING = re.compile(r'cannot (?P<verb>\w+) (?:resource|path) "(?P<resource>[^"]+)"')
_QUOTA = re.compile(r"(?:exceeded|status unknown for) quota: (?P<what>.*)", re.S)
_UNCALLABLE = re.compile(r'failed calling webhook "(?P<name>[^"]+)"')
_TYPED = re.compile(r"failed to create typed patch object \([^)]*\): (?P<why>.*)", re.S)
_OWNER = re.compile(r'conflict with "(?P<owner>[^"]*)"')

_RESOURCE_TERMINATING = "while custom resource definition is terminating"
_NOT_READY = "not yet ready to handle request"

_KSERVE_WEBHOOK = ".kserve-webhook-server."
_LONGEST_TEXT = 1000


def is_absent(answer: Answer) -> bool:
    """Return whether only the object is missing: its namespace and its resource exist."""
    details = answer.body.get("details") or {}
    return (
        answer.status == HTTPStatus.NOT_FOUND
        and bool(details.get("name"))
        and details.get("kind") != "namespaces"
    )


def is_stale(answer: Answer) -> bool:
    """Return whether a precondition failed: the write was planned on another object or version."""
    if answer.status == HTTPStatus.CONFLICT:
        return not _field_conflicts(answer) and not _DENIED.search(_message(answer))
    fields = {cause.get("field") for cause in _causes(answer)}
    return answer.status == HTTPStatus.UNPROCESSABLE_ENTITY and bool(
        fields & {"metadata.uid", "metadata.resourceVersion"}
    )


def is_field_conflict(answer: Answer) -> bool:
    """Return whether another field manager owns a field with another value.

    The API server reports this before it compares the preconditions.
    """
    return answer.status == HTTPStatus.CONFLICT and bool(_field_conflicts(answer))


def has_two_predictors(answer: Answer) -> bool:
    """Return whether KServe refuses another manager's kind of predictor beside ours."""
    return answer.status == HTTPStatus.FORBIDDEN and _TWO_PREDICTORS in _message(answer)


def error_of(answer: Answer, key: ServiceKey, *, writes: bool) -> ServiceError:
    """Return the error of an answer that is not ok.

    `writes`: the request may have had an effect. Only then can its outcome be unknown.
    """
    error = _admission_error(answer) or _error_by_status(answer, key)
    if error is not None:
        return error
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return outcome_unknown(key) if writes else unavailable()
    if not _is_from_api_server(answer):
        return ClusterUnavailable(
            "the Kubernetes API server cannot be reached: a proxy in front of it answers HTTP"
            f" status {answer.status}; nothing was written"
        )
    return UnsupportedByCluster(
        f"the Kubernetes API server refuses the request with HTTP status {answer.status}"
    )


def unavailable(cause: Exception | None = None) -> ClusterUnavailable:
    """Return the error for an API server that cannot be reached, because of `cause` if known.

    Nothing was written.
    """
    if isinstance(cause, NoCredentials):
        return _credentials_error(expired=not cause.refused)
    return ClusterUnavailable("the Kubernetes API server cannot be reached; nothing was written")


def list_error(status: int, resource: Resource) -> ServiceError:
    """Return the error for a list, refused by 403 or 404, without which no service is reported."""
    plural = resource.kind.value[1]
    return _lacks_right("list", plural) if status == HTTPStatus.FORBIDDEN else _kserve_missing()


def outcome_unknown(key: ServiceKey) -> WriteOutcomeUnknown:
    """Return the error for a write that was sent, and whose answer did not arrive."""
    return WriteOutcomeUnknown(
        f"the Kubernetes API server did not answer the write of {key}, which may have been done;"
        " retry with the same request_id"
    )


def field_conflict(key: ServiceKey, fields: list[str], owners: list[str]) -> FieldConflict:
    """Return the error for fields that other field managers own."""
    owner = ", ".join(owners)
    return FieldConflict(
        f"{owner} set {', '.join(fields)} of {key}; set force to take them over",
        fields=",".join(fields),
        owner=owner,
    )


def _admission_error(answer: Answer) -> ServiceError | None:
    """Return the error of an admission webhook or policy, which chooses its own status code."""
    message = _message(answer)
    if mode := _MODE_CHANGED.search(message):
        return ModeImmutable(
            f"KServe fixes the deployment mode of a service: this one is {mode[1]} and cannot"
            f" become {mode[2]}; delete it first"
        )
    denied = _DENIED.search(message) or _POLICY.search(message)
    if denied is None:
        return None
    if answer.status == HTTPStatus.BAD_REQUEST and _KSERVE_WEBHOOK in denied["name"]:
        return SpecInvalid(f"KServe cannot read the spec: {_shortened(denied['why'])}")
    return PolicyRefused(
        f"{denied['name']} refuses it: {_shortened(denied['why'])}", webhook=denied["name"]
    )


def _error_by_status(answer: Answer, key: ServiceKey) -> ServiceError | None:
    match answer.status:
        case HTTPStatus.BAD_REQUEST:
            return SpecInvalid(_shortened(_message(answer)))
        case HTTPStatus.UNAUTHORIZED:
            return _credentials_error(expired=False)
        case HTTPStatus.FORBIDDEN if _is_from_api_server(answer):
            return _forbidden(answer, key)
        case HTTPStatus.NOT_FOUND:
            return _not_found(answer, key)
        case HTTPStatus.CONFLICT if causes := _field_conflicts(answer):
            texts = [str(cause.get("message")) for cause in causes]
            owners = sorted({found["owner"] for text in texts if (found := _OWNER.search(text))})
            fields = [str(cause.get("field", "")).lstrip(".") for cause in causes]
            return field_conflict(key, fields, owners)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return SpecInvalid(f"{key} is larger than the cluster stores")
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            problems = [f"{c.get('field')}: {c.get('message')}" for c in _causes(answer)]
            return SpecInvalid(_shortened("; ".join(dict.fromkeys(problems)) or _message(answer)))
        case HTTPStatus.TOO_MANY_REQUESTS:
            return TooManyRequests(
                "the Kubernetes API server asks to slow down; nothing was written"
            )
        case HTTPStatus.INTERNAL_SERVER_ERROR:
            return _internal(answer)
        case HTTPStatus.SERVICE_UNAVAILABLE if _is_from_api_server(answer):
            # The API server sends it before it acts. One from a proxy proves nothing.
            return unavailable()
    return None


def _forbidden(answer: Answer, key: ServiceKey) -> ServiceError:
    """Kubernetes also sends 403 while it starts, and for a resource that is being removed."""
    message = _message(answer)
    if _NOT_READY in message:
        return unavailable()
    if _RESOURCE_TERMINATING in message:
        return KServeMissing(
            "KServe's InferenceService resource is being removed from this cluster, which makes no"
            " new services: its CustomResourceDefinition is terminating"
        )
    if any(c.get("reason") == "NamespaceTerminating" for c in _causes(answer)):
        return NamespaceTerminating(
            f"the namespace {key.namespace} is being deleted", namespace=key.namespace
        )
    if quota := _QUOTA.search(message):
        return QuotaExceeded(f"the namespace's quota has no room: {_shortened(quota['what'])}")
    if lacking := _LACKING.search(message):
        return _lacks_right(lacking["verb"], lacking["resource"])
    return PolicyRefused(f"the cluster refuses {key}: {_shortened(message)}")


def _not_found(answer: Answer, key: ServiceKey) -> ServiceError:
    if (answer.body.get("details") or {}).get("kind") == "namespaces":
        return NamespaceNotFound(
            f"there is no namespace {key.namespace!r}", namespace=key.namespace
        )
    return ServiceNotFound(key) if is_absent(answer) else _kserve_missing()


def _internal(answer: Answer) -> ServiceError | None:
    """Kubernetes sends 500 also for mistakes in the spec, and for webhooks that are down."""
    message = _message(answer)
    if typed := _TYPED.search(message):
        return SpecInvalid(_shortened(typed["why"]))
    if webhook := _UNCALLABLE.search(message):
        return WebhookUnavailable(
            f"the admission webhook {webhook['name']} does not answer; nothing was written",
            webhook=webhook["name"],
        )
    return None


def _credentials_error(*, expired: bool) -> ServerCredentialsRefused:
    problem = (
        "the ModelService server's credentials for the Kubernetes API server have expired"
        if expired
        else "the Kubernetes API server refuses the ModelService server's credentials"
    )
    return ServerCredentialsRefused(
        f"{problem}; ask the operator of the server to renew them; nothing was written"
    )


def _kserve_missing() -> KServeMissing:
    return KServeMissing("this cluster has no InferenceService resource: KServe is not installed")


def _lacks_right(verb: str, resource: str) -> ServerLacksRights:
    what = resource if resource != RESOURCE else "InferenceServices"
    return ServerLacksRights(
        f"the ModelService service account may not {verb} {what}; ask the cluster administrator to"
        " grant it",
        verb=verb,
        resource=resource,
    )


def _is_from_api_server(answer: Answer) -> bool:
    """Return whether the API server wrote the answer, and not a proxy."""
    return answer.body.get("kind") == "Status"


def _message(answer: Answer) -> str:
    return str(answer.body.get("message", ""))


def _causes(answer: Answer) -> list[Mapping[str, Any]]:
    return (answer.body.get("details") or {}).get("causes") or []


def _field_conflicts(answer: Answer) -> list[Mapping[str, Any]]:
    return [c for c in _causes(answer) if c.get("reason") == "FieldManagerConflict"]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
