"""What control needs from the outside: a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from server.domain.commands import Applied, Delete, Deploy
from server.domain.inference_service import InferenceService, ServiceKey


@dataclass(frozen=True, slots=True)
class Changed:
    """A service is now like this; states in between may have been passed over."""

    service: InferenceService


@dataclass(frozen=True, slots=True)
class Gone:
    """The service of this uid is no longer there."""

    key: ServiceKey
    uid: str


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that the cluster holds has been told at least once."""


FeedEvent = Changed | Gone | Synced


class Cluster(Protocol):
    """A place where InferenceServices run, and the only truth about them.

    Every method raises `server.domain.errors` only.
    """

    async def apply(self, deploy: Deploy) -> Applied:
        """Store the wish and answer once the cluster has it; nothing is half-done.

        A replayed request_id answers the first write. The service answered is about the rollout
        just written, and every later feed event knows at least as much.
        """
        ...

    async def delete(self, delete: Delete) -> InferenceService:
        """Begin the deletion and answer the service as it then is.

        Raises ServiceNotFound where there is none.
        """
        ...

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """Ask the cluster itself, past every cache. For confirming an absence, not for serving."""
        ...

    def feed(self) -> AsyncIterator[FeedEvent]:
        """Follow the cluster until the iterator is closed: what is there, Synced, then changes.

        Outages are survived inside; the latest state of a service always comes through. At most
        one feed runs at a time.
        """
        ...

    def age(self) -> timedelta | None:
        """How long ago what the feed tells was last known to be the present; None before Synced."""
        ...

    def reachable(self) -> bool:
        """Whether the cluster answered when it was last asked."""
        ...
