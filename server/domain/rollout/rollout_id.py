"""A rollout's name, and when a wait for one is over."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from server.domain.rollout.status import Failure, InferenceServiceStatus, State


class Rollout(NamedTuple):
    """One write that the cluster was asked to carry out.

    The uid is part of the name because a generation alone starts at 1 again when a service is
    recreated, so that a wait by generation could end well on somebody else's service.
    """

    uid: str
    generation: int

    @property
    def id(self) -> str:
        """The opaque text that callers hold."""
        return (
            base64.urlsafe_b64encode(f"{self.uid}/{self.generation}".encode()).decode().rstrip("=")
        )

    @classmethod
    def parse(cls, text: str) -> Rollout:
        """Read an id. Raises ValueError for a text that was never one."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError) as e:
            raise ValueError("not a rollout id") from e
        uid, slash, generation = raw.rpartition("/")
        if not uid or not slash or not generation.isdecimal():
            raise ValueError("not a rollout id")
        return cls(uid, int(generation))


class End(Enum):
    """How a wait for a rollout can end; only READY is what was waited for."""

    READY = auto()
    FAILED = auto()
    STOPPED = auto()
    SUPERSEDED = auto()
    GONE = auto()


class Outcome(NamedTuple):
    """How a wait ended, with what went wrong where that is known."""

    end: End
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What a wait for a rollout can see of a service: its current rollout and status."""

    rollout: Rollout
    status: InferenceServiceStatus


def outcome(awaited: Rollout, sight: Sight | None) -> Outcome | None:
    """Decide a wait for READY from the current state alone, or None while it is open.

    It never depends on what a stream happened to see before, so that a reconnect on any replica
    gets the same answer.
    """
    if sight is None or sight.rollout.uid != awaited.uid or sight.status.state is State.DELETING:
        return Outcome(End.GONE)
    if sight.rollout.generation > awaited.generation:
        return Outcome(End.SUPERSEDED)
    if sight.rollout.generation < awaited.generation:
        return None  # this view has not caught up with the write
    return _verdict(awaited, sight.status)


def _verdict(awaited: Rollout, status: InferenceServiceStatus) -> Outcome | None:
    match status.state:
        case State.READY:
            return Outcome(End.READY)
        case State.STOPPED:
            return Outcome(End.STOPPED, status.failure)
        case State.FAILED:
            return Outcome(End.FAILED, status.failure)
        case State.DEGRADED if status.failure and status.failure.rollout_id == awaited.id:
            return Outcome(End.FAILED, status.failure)
    return None
