"""Translate what a channel raises to the client's errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import grpc

from modelservice_client.core.errors import (
    ClientClosed,
    ModelServiceError,
    NotReachable,
    Unauthenticated,
    error_of,
)
from modelservice_client.credentials import Metadata, Token, redact


def error_from(error: Any, sent: Metadata) -> ModelServiceError:
    """Translate an RpcError, also of grpc.aio, without the tokens that the call has sent, which a
    proxy may have repeated."""
    # types-grpcio does not know that they are pairs.
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    return error_of(error.code(), redact(error.details() or "", sent), metadata)


def closed() -> ClientClosed:
    """Return the error of a call whose client was closed."""
    return ClientClosed("the client is closed", code=grpc.StatusCode.CANCELLED)


def headers_failed(error: OSError | ValueError) -> Unauthenticated:
    """Return the error of a call that has no token to send."""
    why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    return Unauthenticated(f"no token: {why}", code=grpc.StatusCode.UNAUTHENTICATED)


def headers_late(token: Token, seconds: float) -> Unauthenticated:
    """Return the error of an attempt whose token was not there in time. The next one may have it:
    a disk that hangs may answer later."""
    return Unauthenticated(
        f"no token: {token.source} has given none for {seconds:.3g} s",
        code=grpc.StatusCode.UNAUTHENTICATED,
        retry_after=0.0,
    )


def silent(seconds: float) -> NotReachable:
    """Return the error of a watch on which nothing came, not even heartbeats."""
    return NotReachable(
        f"nothing came for {seconds:g} s, not even a heartbeat", code=grpc.StatusCode.UNAVAILABLE
    )
