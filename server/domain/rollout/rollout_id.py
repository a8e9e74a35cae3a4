"""Rollout ids, and the outcome of a wait for a rollout."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from server.domain.opaque_tokens import decode_text, encode_text
from server.domain.rollout.status import Failure, InferenceServiceStatus, State


class Rollout(NamedTuple):
    """One write of a service's spec.

    It includes the uid because the generation restarts at 1 when a service is created again: a wait
    by generation alone could succeed on another service.
    """

    uid: str
    generation: int

    @property
    def id(self) -> str:
        """Return the opaque id that callers pass back."""
        return encode_text(f"{self.uid}/{self.generation}")

    @classmethod
    def parse(cls, text: str) -> Rollout:
        """Parse an id. Raises ValueError if the text is not one."""
        uid, slash, generation = (decode_text(text) or "").rpartition("/")
        if not uid or not slash or not generation.isdecimal():
            raise ValueError("not a rollout id")
        return cls(uid, int(generation))


class End(Enum):
    """The ends of a wait for a rollout; the awaited one, READY or STOPPED, is success."""

    READY = auto()
    FAILED = auto()
    STOPPED = auto()
    NOT_STOPPING = auto()
    SUPERSEDED = auto()
    GONE = auto()


class Outcome(NamedTuple):
    """The end of a wait, with its failure if one is known."""

    end: End
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """A service's present rollout and status."""

    rollout: Rollout
    status: InferenceServiceStatus


def outcome(awaited: Rollout, current: RolloutStatus | None) -> Outcome | None:
    """Decide a wait for READY from the present state alone; None while it is undecided.

    It never depends on earlier messages of a stream, so that a reconnect to any replica gets the
    same answer.
    """
    if current is None or _is_gone(awaited, current):
        return Outcome(End.GONE)
    if current.rollout.generation > awaited.generation:
        return Outcome(End.SUPERSEDED)
    if current.rollout.generation < awaited.generation:
        return None  # this view has not caught up with the write
    return _outcome_of(awaited, current.status)


def stop_outcome(
    awaited: Rollout, current: RolloutStatus | None, *, stop_asked: bool
) -> Outcome | None:
    """Decide a wait for STOPPED from the present state alone; None while it is undecided.

    `stop_asked`: an annotation of the service asks for the stop. A newer rollout that leaves it
    asked for is waited for too.
    """
    if current is None or _is_gone(awaited, current):
        return Outcome(End.GONE)
    newer = current.rollout.generation - awaited.generation
    if newer < 0:
        return None  # this view has not caught up with the write
    state = current.status.state
    if state is State.STOPPED:
        return Outcome(End.STOPPED)
    # A service that a cluster stops has no other state on its way.
    if stop_asked and state in (State.PENDING, State.PROGRESSING):
        return None
    return Outcome(End.SUPERSEDED if newer else End.NOT_STOPPING)


def _is_gone(awaited: Rollout, current: RolloutStatus) -> bool:
    return current.rollout.uid != awaited.uid or current.status.state is State.DELETING


def _outcome_of(awaited: Rollout, status: InferenceServiceStatus) -> Outcome | None:
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
