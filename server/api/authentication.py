"""Authenticates calls, by the client certificate of their connection or a bearer token, and lets
them act for other users."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from server.api.call_limits import ArrivingRequests
from server.api.errors import cut
from server.control.call import Authenticate, Call
from server.control.impersonation import Impersonation, impersonate
from server.domain.caller import BearerToken
from server.domain.errors import FieldInvalid, FieldViolation, Unauthenticated
from server.ports import Identities

if TYPE_CHECKING:
    from server.api.transport.client_certificates import ClientCertificates

# Kubernetes' tokens of ServiceAccounts have 1 KiB, those of OIDC with many groups some KiB.
MOST_TOKEN_BYTES = 8192
_KEY = "authorization"
# As the headers of Kubernetes' API. Each right and its refusal are remembered by these names.
_IMPERSONATE = "impersonate-"
_AS_USER, _AS_GROUP = "impersonate-user", "impersonate-group"
MOST_NAME_CHARACTERS = 253
MOST_GROUPS = 100
_NAME = re.compile(rf"[ -~]{{1,{MOST_NAME_CHARACTERS}}}")
_BEARER = re.compile(rf"[Bb]earer +([!-~]{{1,{MOST_TOKEN_BYTES}}})")
_WANTED = "the metadata `authorization` must be `Bearer TOKEN`"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate of one connection, whose chain its handshake has verified. Both are PEM."""

    leaf: bytes
    intermediates: bytes


def client_certificate(context: Any) -> ClientCertificate | None:
    """Return the certificate of a call's connection; None on a listener that asks for none."""
    properties = context.auth_context()
    if leaf := properties.get("x509_pem_cert"):
        return ClientCertificate(leaf[0], b"".join(properties.get("x509_pem_cert_chain", ())))
    return None


class Authentication:
    """Authenticates calls: by a token, and by a certificate where there are `certificates`."""

    def __init__(
        self, identities: Identities, certificates: ClientCertificates | None = None
    ) -> None:
        self._identities = identities
        self._certificates = certificates
        self._arriving = ArrivingRequests()

    async def authenticated(self, call: Call, context: Any, request_bytes: int) -> Call:
        """Return the call with the caller of its credentials.

        Raises Unauthenticated, and TooManyRequests while too many large requests wait for it.
        """
        authenticate, known = self._by_credentials(context)
        with self._arriving.counted(request_bytes, known=known):
            caller = await authenticate()
        return call._replace(caller=caller, authenticate=authenticate)

    async def impersonated(self, call: Call, context: Any) -> Call:
        """Return an authenticated call with the user for whom its metadata lets it act, if any.

        Raises FieldInvalid for metadata that names a user wrongly, PermissionDenied for a user
        that the caller may not impersonate, and Unauthenticated.
        """
        impersonation = impersonation_of(context.invocation_metadata())
        if not impersonation or not call.authenticate:
            return call
        authenticate = partial(impersonate, self._identities, call.authenticate, impersonation)
        return call._replace(caller=await authenticate(), authenticate=authenticate)

    def _by_credentials(self, context: Any) -> tuple[Authenticate, bool]:
        """Return the function that authenticates a call, and whether its credentials are known."""
        metadata = context.invocation_metadata()
        if self._certificates and (certificate := client_certificate(context)):
            if any(key == _KEY for key, _ in metadata):
                raise Unauthenticated(
                    "the call has a client certificate and a token: it must have one of them"
                )
            return partial(self._certificates.caller_of, certificate), True
        token = bearer_token(metadata)
        return partial(self._identities.authenticate, token), self._identities.knows(token)


def impersonation_of(metadata: Iterable[tuple[str, Any]]) -> Impersonation | None:
    """Return the user and the groups to act for that a call's metadata names, if any.

    Raises FieldInvalid.
    """
    users, groups = list[str](), list[str]()
    for key, value in metadata:
        if key.startswith(_IMPERSONATE):
            named = {_AS_USER: users, _AS_GROUP: groups}.get(key)
            if named is None:
                raise _wrong(key, f"must be {_AS_USER} or {_AS_GROUP}")
            if not _NAME.fullmatch(value):
                raise _wrong(key, f"must have 1 to {MOST_NAME_CHARACTERS} printable characters")
            named.append(value)
    if len(users) > 1:
        raise _wrong(_AS_USER, f"must be there once, got it {len(users)} times")
    if groups and not users:
        raise _wrong(_AS_USER, f"must be set, since {_AS_GROUP} is")
    if len(groups) > MOST_GROUPS:
        raise _wrong(_AS_GROUP, f"must be there at most {MOST_GROUPS} times, got {len(groups)}")
    return Impersonation(users[0], tuple(dict.fromkeys(groups))) if users else None


def _wrong(key: str, why: str) -> FieldInvalid:
    return FieldInvalid([FieldViolation(f"metadata.{cut(key, MOST_NAME_CHARACTERS)}", why)])


def bearer_token(metadata: Iterable[tuple[str, Any]]) -> BearerToken:
    """Return the one token of a call's metadata. Raises Unauthenticated."""
    given = [value for key, value in metadata if key == _KEY]
    if not given:
        raise Unauthenticated(f"the call has no token: {_WANTED}")
    if len(given) > 1:
        raise Unauthenticated(f"the call has {len(given)} tokens: it must have one")
    found = _BEARER.fullmatch(given[0])
    if not found:
        raise Unauthenticated(f"{_WANTED}, with a token of 1 to {MOST_TOKEN_BYTES} bytes")
    return BearerToken(found[1])
