"""Authenticates calls, by the bearer token of their metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from server.control.call import Call
from server.domain.caller import BearerToken
from server.domain.errors import Unauthenticated
from server.ports import Identities

# Kubernetes' tokens of ServiceAccounts have 1 KiB, those of OIDC with many groups some KiB.
MOST_TOKEN_BYTES = 8192
_KEY = "authorization"
_BEARER = re.compile(rf"[Bb]earer +([!-~]{{1,{MOST_TOKEN_BYTES}}})")
_WANTED = "the metadata `authorization` must be `Bearer TOKEN`"


class Authentication:
    """Authenticates calls."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def authenticated(self, call: Call, context: Any) -> Call:
        """Return the call with its caller. Raises Unauthenticated."""
        token = bearer_token(context.invocation_metadata())
        authenticate = partial(self._identities.authenticate, token)
        return Call(await authenticate(), call.deadline, call.trace, authenticate)


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
