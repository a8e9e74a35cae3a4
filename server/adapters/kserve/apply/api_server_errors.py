"""What the API server's refusals mean: each answer becomes one of the domain's errors.

The API server says some things by code, some by reason and some only in its text. Texts of
Kubernetes and of admission webhooks about the spec are passed on; those that hold addresses or
account names are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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

_DENIED = re.compile(r'admission webhook "(?P<who>[^"]+)" denied the request:? ?(?P<why>.*)', re.S)
_POLICY = re.compile(
    r"ValidatingAdmissionPolicy '(?P<who>[^']+)' with binding '[^']*' denied request: (?P<why>.*)",
    re.S,
)
_MODE_CHANGED = re.compile(r"deploymentMode cannot be changed from '(\w+)' to '(\w+)'")
_TWO_PREDICTORS = "exactly one of ["
_LACKING = re.compile(r'cannot (?P<verb>\w+) (?:resource|path) "(?P<resource>[^"]+)"')
_QUOTA = re.compile(r"(?:exceeded|status unknown for) quota: (?P<what>.*)", re.S)
_UNCALLABLE = re.compile(r'failed calling webhook "(?P<who>[^"]+)"')
_TYPED = re.compile(r"failed to create typed patch object \([^)]*\): (?P<why>.*)", re.S)
_OWNER = re.compile(r'conflict with "(?P<owner>[^"]*)"')

_RESOURCE_TERMINATING = "while custom resource definition is terminating"
_NOT_READY = "not yet ready to handle request"

_KSERVES = ".kserve-webhook-server."
_LONGEST_TEXT = 1000


def is_absent(answer: Answer) -> bool:
    """Whether there is no object of that name, where everything else is there."""
    details = answer.body.get("details") or {}
    return (
        answer.status == HTTPStatus.NOT_FOUND
        and bool(details.get("name"))
        and details.get("kind") != "namespaces"
    )


def is_stale(answer: Answer) -> bool:
    """Whether a precondition failed: the object is not the one that the write was planned on."""
    if answer.status == HTTPStatus.CONFLICT:
        return not _conflicts(answer) and not _DENIED.search(_message(answer))
    fields = {cause.get("field") for cause in _causes(answer)}
    return answer.status == HTTPStatus.UNPROCESSABLE_ENTITY and bool(
        fields & {"metadata.uid", "metadata.resourceVersion"}
    )


def is_field_conflict(answer: Answer) -> bool:
    """Whether another field manager's values stand against it; told before a stale precondition."""
    return answer.status == HTTPStatus.CONFLICT and bool(_conflicts(answer))


def has_two_predictors(answer: Answer) -> bool:
    """Whether KServe refuses because another manager's kind of predictor stands beside ours."""
    return answer.status == HTTPStatus.FORBIDDEN and _TWO_PREDICTORS in _message(answer)


def refusal(answer: Answer, key: ServiceKey, *, writes: bool) -> ServiceError:
    """The error that an answer with an error status stands for.

    `writes` says whether it may have had an effect: only then can the outcome be unknown.
    """
    read = _BY_STATUS.get(answer.status)
    error = _denied(answer) or (read(answer, key) if read else None)
    if error is not None:
        return error
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return outcome_unknown(key) if writes else unavailable()
    if not _is_api_servers(answer):
        return ClusterUnavailable(
            f"the Kubernetes API server cannot be reached: what stands before it answers HTTP"
            f" status {answer.status}; nothing was written"
        )
    return UnsupportedByCluster(
        f"the Kubernetes API server refuses the request with HTTP status {answer.status}"
    )


def unavailable(cause: Exception | None = None) -> ClusterUnavailable:
    """Nothing was written, since the API server cannot be asked; `cause` says why, where known."""
    if isinstance(cause, NoCredentials):
        return _credentials_refused(ended=not cause.refused)
    return ClusterUnavailable("the Kubernetes API server cannot be reached; nothing was written")


def _credentials_refused(*, ended: bool) -> ServerCredentialsRefused:
    what = (
        "this server's own credentials for the Kubernetes API server have ended"
        if ended
        else "the Kubernetes API server refuses this server's own credentials"
    )
    return ServerCredentialsRefused(
        f"{what}; who runs this server can renew them; nothing was written"
    )


def list_refused(status: int, resource: Resource) -> ServiceError:
    """The error for a list without which no service can be reported, refused by 403 or 404."""
    _, plural = resource.kind.value
    if status == HTTPStatus.FORBIDDEN:
        return _lacks_right("list", plural)
    return _kserve_missing()


def outcome_unknown(key: ServiceKey) -> WriteOutcomeUnknown:
    """The request went out and its answer did not come back."""
    return WriteOutcomeUnknown(
        f"the Kubernetes API server did not answer the write of {key}, which may have been done;"
        " retry with the same request_id"
    )


def _denied(answer: Answer) -> ServiceError | None:
    """An admission webhook's or policy's own no, which comes with whatever code it chose."""
    message = _message(answer)
    if mode := _MODE_CHANGED.search(message):
        return ModeImmutable(
            f"KServe fixes the deployment mode of a service: this one is {mode[1]} and cannot"
            f" become {mode[2]}; delete it first"
        )
    denied = _DENIED.search(message) or _POLICY.search(message)
    if denied is None:
        return None
    if answer.status == HTTPStatus.BAD_REQUEST and _KSERVES in denied["who"]:
        return SpecInvalid(f"KServe cannot read the spec: {_told(denied['why'])}")
    return PolicyRefused(
        f"{denied['who']} refuses it: {_told(denied['why'])}", webhook=denied["who"]
    )


def _bad_request(answer: Answer, key: ServiceKey) -> ServiceError | None:
    return SpecInvalid(_told(_message(answer)))


def _unauthorized(answer: Answer, key: ServiceKey) -> ServiceError | None:
    return _credentials_refused(ended=False)


def _forbidden(answer: Answer, key: ServiceKey) -> ServiceError | None:
    """Kubernetes says 403 also where it is not ready, and where a resource is on its way out."""
    message = _message(answer)
    if not _is_api_servers(answer):
        return None
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
        return QuotaExceeded(f"the namespace's quota has no room: {_told(quota['what'])}")
    if lacking := _LACKING.search(message):
        return _lacks_right(lacking["verb"], lacking["resource"])
    return PolicyRefused(f"the cluster refuses {key}: {_told(message)}")


def _not_found(answer: Answer, key: ServiceKey) -> ServiceError | None:
    details = answer.body.get("details") or {}
    if details.get("kind") == "namespaces":
        return NamespaceNotFound(
            f"there is no namespace {key.namespace!r}", namespace=key.namespace
        )
    if is_absent(answer):
        return ServiceNotFound(key)
    return _kserve_missing()


def _conflict(answer: Answer, key: ServiceKey) -> ServiceError | None:
    causes = _conflicts(answer)
    if not causes:
        return None
    owners = sorted({m["owner"] for c in causes if (m := _OWNER.search(str(c.get("message"))))})
    fields = [str(c.get("field", "")).lstrip(".") for c in causes]
    return owned_by_others(key, fields, owners)


def owned_by_others(key: ServiceKey, fields: list[str], owners: list[str]) -> FieldConflict:
    """The refusal to overwrite what other field managers set."""
    owner = ", ".join(owners)
    return FieldConflict(
        f"{owner} set {', '.join(fields)} of {key}; set force to take them over",
        fields=",".join(fields),
        owner=owner,
    )


def _invalid(answer: Answer, key: ServiceKey) -> ServiceError | None:
    told = [f"{c.get('field')}: {c.get('message')}" for c in _causes(answer)]
    return SpecInvalid(_told("; ".join(dict.fromkeys(told)) or _message(answer)))


def _too_large(answer: Answer, key: ServiceKey) -> ServiceError | None:
    return SpecInvalid(f"{key} is larger than the cluster stores")


def _too_many(answer: Answer, key: ServiceKey) -> ServiceError | None:
    return TooManyRequests("the Kubernetes API server asks to slow down; nothing was written")


def _internal(answer: Answer, key: ServiceKey) -> ServiceError | None:
    """Kubernetes says 500 also of mistakes in the spec, and of webhooks that are down."""
    message = _message(answer)
    if typed := _TYPED.search(message):
        return SpecInvalid(_told(typed["why"]))
    if webhook := _UNCALLABLE.search(message):
        return WebhookUnavailable(
            f"the admission webhook {webhook['who']} does not answer; nothing was written",
            webhook=webhook["who"],
        )
    return None


def _busy(answer: Answer, key: ServiceKey) -> ServiceError | None:
    """By the API server itself it is said before anything is done; a proxy's word is not."""
    return unavailable() if _is_api_servers(answer) else None


_BY_STATUS: Mapping[int, Callable[[Answer, ServiceKey], ServiceError | None]] = {
    HTTPStatus.BAD_REQUEST: _bad_request,
    HTTPStatus.UNAUTHORIZED: _unauthorized,
    HTTPStatus.FORBIDDEN: _forbidden,
    HTTPStatus.NOT_FOUND: _not_found,
    HTTPStatus.CONFLICT: _conflict,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _too_large,
    HTTPStatus.UNPROCESSABLE_ENTITY: _invalid,
    HTTPStatus.TOO_MANY_REQUESTS: _too_many,
    HTTPStatus.INTERNAL_SERVER_ERROR: _internal,
    HTTPStatus.SERVICE_UNAVAILABLE: _busy,
}


def _kserve_missing() -> KServeMissing:
    return KServeMissing("this cluster has no InferenceService resource: KServe is not installed")


def _lacks_right(verb: str, resource: str) -> ServerLacksRights:
    where = resource if resource != RESOURCE else "InferenceServices"
    return ServerLacksRights(
        f"this server's own account may not {verb} {where}; who installed it can grant that",
        verb=verb,
        resource=resource,
    )


def _is_api_servers(answer: Answer) -> bool:
    """Whether it is the API server's own word, and not a proxy's."""
    return answer.body.get("kind") == "Status"


def _message(answer: Answer) -> str:
    return str(answer.body.get("message", ""))


def _causes(answer: Answer) -> list[Mapping[str, Any]]:
    return (answer.body.get("details") or {}).get("causes") or []


def _conflicts(answer: Answer) -> list[Mapping[str, Any]]:
    return [c for c in _causes(answer) if c.get("reason") == "FieldManagerConflict"]


def _told(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
