"""A file of tokens, and channels whose calls carry one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub
from modelservice.v1.rollout_service_pb2_grpc import RolloutServiceStub

from tests.patience import PATIENCE_SECONDS


def entry(user: str, **roles: dict[str, str]) -> str:
    """A user whose token is its name, doubled."""
    lines = [f'[[user]]\nname = "{user}"\nsha256 = ["{digest(token_of(user))}"]']
    for kind, given in roles.items():
        inline = ", ".join(f'"{where}" = "{role}"' for where, role in given.items())
        lines.append(f"{kind} = {{ {inline} }}")
    return "\n".join(lines) + "\n"


def token_of(user: str) -> str:
    return f"{user}-{user}"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def identity(file: Path) -> dict[str, Any]:
    """The settings of a server with this file."""
    return {"auth": "tokens", "tokens_file": str(file)}


class _Metadata(NamedTuple):
    method: str
    timeout: float | None
    metadata: list[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _WithToken(  # type: ignore[misc]
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, authorization: list[str]) -> None:
        self._authorization = [("authorization", value) for value in authorization]

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with(details), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._with(details), requests)

    def _with(self, details: Any) -> _Metadata:
        metadata = [*(details.metadata or ()), *self._authorization]
        timeout = PATIENCE_SECONDS if details.timeout is None else details.timeout
        return _Metadata(details.method, timeout, metadata, details.credentials, None, None)


def with_tokens(channel: grpc.Channel, *authorization: str) -> grpc.Channel:
    """A channel over this one, with these values of `authorization`."""
    return grpc.intercept_channel(channel, _WithToken([*authorization]))


class Client:
    """A caller over a channel that others share, with these values of `authorization`."""

    def __init__(self, channel: grpc.Channel, *authorization: str) -> None:
        channel = with_tokens(channel, *authorization)
        self.models = ModelServiceStub(channel)
        self.rollouts = RolloutServiceStub(channel)
        self.registry = RegistryServiceStub(channel)

    def method(self, name: str) -> Any:
        """The method of whichever service has it."""
        stubs = (self.models, self.rollouts, self.registry)
        return next(getattr(stub, name) for stub in stubs if hasattr(stub, name))

    @classmethod
    def of(cls, channel: grpc.Channel, user: str) -> Client:
        return cls(channel, f"Bearer {token_of(user)}")
