"""TokenReviews and SubjectAccessReviews."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.domain.caller import Access, BearerToken, Caller
from server.domain.errors import ClusterUnavailable, ServerLacksRights

REVIEW_SECONDS = 3.0
_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Reviews:
    """Asks the API server. Its methods raise ClusterUnavailable and ServerLacksRights."""

    def __init__(self, api: ApiServer, audience: str) -> None:
        self._api = api
        self._audience = audience

    async def caller_of(self, token: BearerToken) -> Caller | None:
        """Return the caller of a token for the audience; None for any other token."""
        spec = {"token": token.reveal(), "audiences": [self._audience]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status = await self._review(_TOKEN_REVIEWS, body)
        # An authenticator that knows no audiences leaves them empty.
        if status.get("authenticated") is not True or self._audience not in (
            status.get("audiences") or ()
        ):
            return None
        caller = _caller(status.get("user") or {})
        return replace(caller, expires=expiry_of(token)) if caller.name else None

    async def allows(self, caller: Caller, access: Access) -> bool:
        """Return whether the cluster's authorizers give a caller a right."""
        attributes = {
            "verb": access.verb,
            "group": access.resource.group,
            "resource": access.resource.plural,
            "subresource": access.resource.subresource,
            "namespace": access.namespace,
            "name": access.name,
        }
        spec = {
            "user": caller.name,
            "uid": caller.uid,
            "groups": list(caller.groups),
            "extra": {key: list(values) for key, values in caller.extra},
            "resourceAttributes": attributes,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": spec,
        }
        return (await self._review(_ACCESS_REVIEWS, body)).get("allowed") is True

    async def _review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            answer = await self._api.send("POST", path, body=body, timeout=REVIEW_SECONDS)
        except (Unreachable, Unanswered):
            raise _unavailable() from None
        if answer.status == HTTPStatus.FORBIDDEN:
            resource = path.rpartition("/")[2]
            raise ServerLacksRights(
                f"the ModelService service account may not create {resource}; ask the cluster"
                " administrator to bind it to system:auth-delegator (k8s/base/delegation.yaml)",
                verb="create",
                resource=resource,
            )
        if not answer.ok:
            raise _unavailable()
        status: Mapping[str, Any] = answer.body.get("status") or {}
        return status


def expiry_of(token: BearerToken) -> datetime | None:
    """Return the `exp` of a JWT, which a TokenReview does not have; None for any other token.

    It may only shorten the use of a token that the API server has accepted, so that its signature
    need not be checked here.
    """
    parts = token.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(claims["exp"], UTC)
    except (
        binascii.Error,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
        OSError,
    ):
        return None


def _caller(user: Mapping[str, Any]) -> Caller:
    extra = user.get("extra") or {}
    return Caller(
        str(user.get("username") or ""),
        uid=str(user.get("uid") or ""),
        groups=tuple(map(str, user.get("groups") or ())),
        extra=tuple((key, tuple(map(str, extra[key] or ()))) for key in sorted(extra)),
    )


def _unavailable() -> ClusterUnavailable:
    return ClusterUnavailable(
        "the Kubernetes API server cannot be reached, so that the caller's identity and rights are"
        " not known; nothing was done"
    )
