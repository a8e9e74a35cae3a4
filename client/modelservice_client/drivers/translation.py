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
from modelservice_client.credentials import Metadata, redact


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


def silent(seconds: float) -> NotReachable:
    """Return the error of a watch on which nothing came, not even heartbeats."""
    return NotReachable(
        f"nothing came for {seconds:g} s, not even a heartbeat", code=grpc.StatusCode.UNAVAILABLE
    )
