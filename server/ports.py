"""What control needs from the outside: a cluster, and a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from server.domain.errors import ServiceError
from server.domain.registry.deployment import DeploymentFilter, ModelDeployment
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    Registered,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
)
from server.domain.service.commands import Applied, Delete, Deploy
from server.domain.service.inference_service import InferenceService, ServiceKey

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Changed:
    """A service is now like this; states in between may have been passed over."""

    service: InferenceService


@dataclass(frozen=True, slots=True)
class Gone:
    """The service of this uid is no longer there; it may have come and gone unreported."""

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

    def refusal(self) -> ServiceError | None:
        """What the cluster refuses this server, so that it cannot be followed before somebody
        mends that; None where it refuses nothing, or is only away."""
        ...

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time that `reachable` begins to answer otherwise."""
        ...

    def reachable(self) -> bool:
        """Whether the cluster, when it was last asked, answered and took our credentials."""
        ...


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some of a listing, newest first.

    A page from `positions[i]` on begins with item i; one more of them is the next page's.
    """

    items: Sequence[Item]
    positions: Sequence[int]


class RegistryReading(Protocol):
    """What can be read of the registry in one transaction; absent things are None."""

    async def now(self) -> datetime:
        """The time by the database's clock, which all replicas share."""
        ...

    async def model(self, key: ModelKey) -> RegisteredModel | None:
        """The model of this name."""
        ...

    async def version(self, key: VersionKey) -> ModelVersion | None:
        """The version of this name."""
        ...

    async def newest_ready_version(self, model: ModelKey) -> ModelVersion | None:
        """The READY version that was made last."""
        ...

    async def environment(self, key: EnvironmentKey) -> ServingEnvironment | None:
        """The environment of this name."""
        ...

    async def deployment(self, deployment_id: str) -> ModelDeployment | None:
        """The record of this id."""
        ...

    async def open_deployments(
        self, service: ServiceKey | None = None
    ) -> Sequence[ModelDeployment]:
        """The records without an end, of one service or of all, oldest first."""
        ...

    async def users(self, thing: Registered, most: int) -> Sequence[ModelDeployment]:
        """At most so many of the records without an end that were made from it."""
        ...

    async def models(self, project: str, size: int, position: int | None) -> Page[RegisteredModel]:
        """A page of a project's models, from a position on."""
        ...

    async def versions(
        self, model: ModelKey, size: int, position: int | None
    ) -> Page[ModelVersion]:
        """A page of a model's versions, from a position on."""
        ...

    async def environments(
        self, project: str, size: int, position: int | None
    ) -> Page[ServingEnvironment]:
        """A page of a project's environments, from a position on."""
        ...

    async def deployments(
        self, wanted: DeploymentFilter, size: int, position: int | None
    ) -> Page[ModelDeployment]:
        """A page of records, from a position on."""
        ...


class RegistryWriting(RegistryReading, Protocol):
    """One transaction that writes. Each single thing read in it, and `open_deployments` of a
    service, stays as it is for everybody else until the transaction ends."""

    async def add(self, thing: Registered | ModelDeployment) -> None:
        """Store something new. Raises AlreadyExists where its name is taken."""
        ...

    async def replace(self, thing: Registered | ModelDeployment) -> None:
        """Store something that was read in this transaction and changed."""
        ...

    async def remove(self, thing: Registered | ModelDeployment) -> None:
        """Forget it; a model's versions go with it."""
        ...


class Registry(Protocol):
    """Where models, versions, environments and the records of deployments are kept.

    Every method raises what `work` raises, and RegistryUnavailable; then nothing of it is stored,
    but where the message says that this is unknown.
    """

    async def read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        """Do reading work on one consistent state."""
        ...

    async def write(self, work: Callable[[RegistryWriting], Awaitable[Result]]) -> Result:
        """Do the work and store all of it, or nothing. It may be done again from its beginning
        where another transaction was in its way, so it has no effects of its own."""
        ...

    async def lead(self, holder: str, term: timedelta) -> bool:
        """Become or stay, for `term` from now by the database's clock, the one who follows the
        feed in the records; False: another is. No term is longer than two minutes: a lease that
        seems to be is from before the clock was turned back."""
        ...

    async def resign(self, holder: str) -> None:
        """Let another lead at once."""
        ...

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time that `reachable` begins to answer otherwise."""
        ...

    def reachable(self) -> bool:
        """Whether the registry answered when it was last asked."""
        ...
