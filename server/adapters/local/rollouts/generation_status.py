"""The status of one generation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.domain.rollout.facts import Problem


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """The status of one generation and its model server.

    - `activity`: its current step, in words.
    - `begun`: its first attempt has begun.
    - `ready`: its server reports its model ready.
    - `completed_at`: when it was first ready; kept afterwards.
    - `stable_at`: when it counts as stable after its last crash; None if it is stable.
    - `retried_at`: when a caller last had it tried again after a failure.
    - `problem`: its last failure, until that is over.
    """

    generation: int
    activity: str = "waiting to start"
    begun: bool = False
    runtime: str = ""
    ready: bool = False
    completed_at: datetime | None = None
    unavailable_since: datetime | None = None
    stable_at: datetime | None = None
    retried_at: datetime | None = None
    problem: Problem | None = None
