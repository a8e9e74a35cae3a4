"""What is to be seen of one generation's model server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.domain.rollout.facts import Problem


@dataclass(frozen=True, slots=True)
class Sight:
    """How one generation stands.

    `activity`: in words for people. `begun`: something is done for it. `ready`: its own server says
    that its model is. `completed_at`: when it first was, whatever became of it. `stable_at`: when
    it will have survived its last crash; None if it has. `problem`: what went wrong last, until
    that is over.
    """

    generation: int
    activity: str = "waiting to start"
    begun: bool = False
    runtime: str = ""
    ready: bool = False
    completed_at: datetime | None = None
    unavailable_since: datetime | None = None
    stable_at: datetime | None = None
    problem: Problem | None = None
