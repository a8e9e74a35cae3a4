"""Authenticates calls, by the client certificate of their connection or a bearer token, and lets
them act for other users."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from server.api.call_limits import ArrivingRequests
from server.api.errors import cut
from server.control.call import Authenticate
from server.control.impersonation import Impersonation, impersonate
from server.domain.caller import BearerToken, Caller
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


class Authenticated(NamedTuple):
    """A caller, how it is authenticated again, and how it is if the call acts for another user.

    `impersonate` is None for a call that does not. It raises FieldInvalid for metadata that names a
    user wrongly. What it returns raises Unauthenticated, and PermissionDenied for a user that the
    caller may not impersonate.
    """

    caller: Caller
    authenticate: Authenticate
    impersonate: Callable[[], Authenticate] | None


class Authentication:
    """Authenticates calls: by a token, and by a certificate where there are `certificates`."""

    def __init__(
        self, identities: Identities, certificates: ClientCertificates | None = None
    ) -> None:
        self._identities = identities
        self._certificates = certificates
        self._arriving = ArrivingRequests()

    async def authenticated(self, context: Any, request_bytes: int) -> Authenticated:
        """Return the caller of a call's credentials.

        Raises Unauthenticated, and TooManyRequests while too many large requests wait for it.
        """
        tokens, named = list[str](), list[tuple[str, Any]]()
        # In one pass: gRPC makes the metadata anew each time that it is asked for.
        for key, value in context.invocation_metadata():
            if key == _KEY:
                tokens.append(value)
            elif key.startswith(_IMPERSONATE):
                named.append((key, value))
        authenticate, known = self._by_credentials(context, tokens)
        with self._arriving.counted(request_bytes, known=known):
            caller = await authenticate()
        impersonating = partial(self._impersonating, authenticate, named) if named else None
        return Authenticated(caller, authenticate, impersonating)

    def _by_credentials(self, context: Any, tokens: Sequence[str]) -> tuple[Authenticate, bool]:
        """Return the function that authenticates a call, and whether its credentials are known."""
        if self._certificates and (certificate := client_certificate(context)):
            if tokens:
                raise Unauthenticated(
                    "the call has a client certificate and a token: it must have one of them"
                )
            return partial(self._certificates.caller_of, certificate), True
        token = bearer_token(tokens)
        return partial(self._identities.authenticate, token), self._identities.knows(token)

    def _impersonating(
        self, authenticate: Authenticate, named: Iterable[tuple[str, Any]]
    ) -> Authenticate:
        return partial(impersonate, self._identities, authenticate, impersonation_of(named))


def impersonation_of(named: Iterable[tuple[str, Any]]) -> Impersonation:
    """Return the user and the groups to act for, of the `impersonate-` entries of metadata.

    Raises FieldInvalid.
    """
    users, groups = list[str](), list[str]()
    for key, value in named:
        names = {_AS_USER: users, _AS_GROUP: groups}.get(key)
        if names is None:
            raise _wrong(key, f"must be {_AS_USER} or {_AS_GROUP}")
        if not _NAME.fullmatch(value):
            raise _wrong(key, f"must have 1 to {MOST_NAME_CHARACTERS} printable characters")
        names.append(value)
    if len(users) > 1:
        raise _wrong(_AS_USER, f"must be there once, got it {len(users)} times")
    if not users:
        raise _wrong(_AS_USER, f"must be set, since {_AS_GROUP} is")
    if len(groups) > MOST_GROUPS:
        raise _wrong(_AS_GROUP, f"must be there at most {MOST_GROUPS} times, got {len(groups)}")
    return Impersonation(users[0], tuple(dict.fromkeys(groups)))


def _wrong(key: str, why: str) -> FieldInvalid:
    return FieldInvalid([FieldViolation(f"metadata.{cut(key, MOST_NAME_CHARACTERS)}", why)])


def bearer_token(given: Sequence[str]) -> BearerToken:
    """Return the one token of those that a call's metadata has. Raises Unauthenticated."""
    if not given:
        raise Unauthenticated(f"the call has no token: {_WANTED}")
    if len(given) > 1:
        raise Unauthenticated(f"the call has {len(given)} tokens: it must have one")
    found = _BEARER.fullmatch(given[0])
    if not found:
        raise Unauthenticated(f"{_WANTED}, with a token of 1 to {MOST_TOKEN_BYTES} bytes")
    return BearerToken(found[1])
