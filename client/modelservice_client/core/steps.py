"""Name the steps that a routine asks its driver for."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message
from modelservice.v1.model_service_pb2 import WatchStatusRequest, WatchStatusResponse

from modelservice_client.core.rpcs import Rpc

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Make a call and send back its response, within `timeout` seconds, its token's included."""

    rpc: Rpc[Any, Any]
    request: Message
    timeout: float


@dataclass(frozen=True, slots=True)
class Open:
    """Open a watch, which ends after `timeout` seconds if that is not None. Its token is there
    within `token_timeout` seconds, or opening fails."""

    request: WatchStatusRequest
    timeout: float | None
    token_timeout: float


@dataclass(frozen=True, slots=True)
class Receive:
    """Send back the next message of the open watch, or None at its good end. A stream that is
    silent for `timeout` seconds is cancelled and counts as a lost connection."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Close:
    """Cancel the open watch."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Show a message to the caller."""

    message: WatchStatusResponse


Step: TypeAlias = Send | Open | Receive | Close | Pause | Emit
Routine: TypeAlias = Generator[Step, Any, T]
