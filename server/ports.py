"""The ports of control: a cluster, a registry, and the identity and rights of callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from server.domain.caller import Access, BearerToken, Caller
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
from server.domain.revisions.revision import ServiceHistory
from server.domain.service.commands import Applied, Delete, Deploy
from server.domain.service.inference_service import InferenceService, ServiceKey

Item = TypeVar("Item")
Result = TypeVar("Result")


class ServiceSink(Protocol):
    """Takes the services of a cluster, and trusts its order: the last call is the truth."""

    def put(self, service: InferenceService) -> None:
        """Store the latest state of a service. One with another uid under its key is deleted."""
        ...

    def remove(self, key: ServiceKey) -> None:
        """Remove a deleted service. It may never have been put."""
        ...

    def mark_synced(self) -> None:
        """Note that every service of the cluster has been put."""
        ...


class Cluster(Protocol):
    """A cluster that runs InferenceServices. It is the only truth about them.

    Its methods raise only `server.domain.errors`.

    The cluster alone orders what it knows of a service, so that callers read their own writes:

    - When `apply` or `delete` returns, a synced sink has what it returns, or something newer. That
      holds although the cluster's events are late, or came before the answer.
    - The sink never gets a state that is older than the one before it: neither an earlier
      generation, nor a service without its deletion, nor a uid that was deleted or replaced.
    """

    async def apply(self, deploy: Deploy) -> Applied:
        """Store the desired spec, all of it or nothing, and return once the cluster has it.

        A repeated request_id returns the result of the first write. The returned service has the
        status of this rollout.
        """
        ...

    async def delete(self, delete: Delete) -> InferenceService:
        """Begin the deletion, and return the service as it then is. Raises ServiceNotFound."""
        ...

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """Read the cluster itself, past every cache: to confirm an absence, not to serve reads."""
        ...

    async def history(self, key: ServiceKey) -> ServiceHistory | None:
        """Read a service with its revisions from the cluster itself; None if there is no service.

        The first revision is always that of the present content, with the outcome that the status
        shows now. At most MODELSERVICE_REVISIONS and four more are kept.
        """
        ...

    async def follow(self, sink: ServiceSink) -> None:
        """Put all services into an empty sink, mark it synced, then put changes, until cancelled.

        It survives outages, and always puts the latest state of a service in the end; states before
        that may be skipped. At most one sink is followed at a time.
        """
        ...

    def position(self, key: ServiceKey) -> str:
        """Return how far the cluster was when the sink got its present state of a service.

        It is opaque, at most 400 characters, and comparable in every replica of the cluster. Empty
        if the cluster has one replica only.
        """
        ...

    def reached(self, key: ServiceKey, position: str) -> bool:
        """Report whether the sink has a service as it was at a position, or newer.

        A replica that has read every change so far has reached every position that another replica
        returned before. True for a text that is no position.
        """
        ...

    def age(self) -> timedelta | None:
        """Return the time since the sink was last known to be current; None before it is synced."""
        ...

    def refusal(self) -> ServiceError | None:
        """Return the error with which the cluster refuses this server until an operator acts.

        None if it refuses nothing, or is only unreachable.
        """
        ...

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each change of `reachable`."""
        ...

    def reachable(self) -> bool:
        """Report whether the cluster answered the last request and accepted our credentials."""
        ...


class Identities(Protocol):
    """Decides who callers are, and what they may do.

    Both answers may come from a cache; with `fresh` they are at most some seconds old. Its methods
    raise ClusterUnavailable while that cannot be decided, and TooManyRequests.
    """

    async def authenticate(self, token: BearerToken, *, fresh: bool = False) -> Caller:
        """Return the caller of a token. Raises Unauthenticated."""
        ...

    def knows(self, token: BearerToken) -> bool:
        """Return whether the token was that of a caller when it was last authenticated."""
        ...

    async def allows(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
        """Return whether a caller has a right."""
        ...

    def likely_namespaces(self, caller: Caller) -> Sequence[str]:
        """Return namespaces in which a caller may have rights, as far as that is known at once.

        Those of roles that the user has by name come before those of its groups.
        """
        ...

    def remedy(self, caller: Caller, access: Access) -> str:
        """Return how a caller without a right checks it or gets it, for a message."""
        ...


# How long a call waits for its audit record to be stored.
AUDIT_SECONDS = 2.0
# A pipe takes as much at once, or nothing of it: PIPE_BUF.
MOST_AUDIT_BYTES = 4096


class AuditSink(Protocol):
    """Stores audit records in order, each a line of at most MOST_AUDIT_BYTES."""

    def available(self) -> bool:
        """Report whether records are stored within AUDIT_SECONDS, as far as is known."""
        ...

    def put(self, line: bytes) -> asyncio.Future[None]:
        """Queue a record. The future is done once it is stored.

        While the sink takes nothing, the record waits for as long as this process lives.
        """
        ...


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A page of a listing, newest first.

    `positions[i]` is the cursor of `items[i]`; an extra last entry is the cursor of the next page.
    """

    items: Sequence[Item]
    positions: Sequence[int]


class RegistryReading(Protocol):
    """A transaction that reads the registry. Reads of absent things return None."""

    async def now(self) -> datetime:
        """Return the time of the database's clock, which all replicas share."""
        ...

    async def model(self, key: ModelKey) -> RegisteredModel | None:
        """Read a model."""
        ...

    async def version(self, key: VersionKey) -> ModelVersion | None:
        """Read a version."""
        ...

    async def newest_ready_version(self, model: ModelKey) -> ModelVersion | None:
        """Read the READY version that was created last."""
        ...

    async def environment(self, key: EnvironmentKey) -> ServingEnvironment | None:
        """Read an environment."""
        ...

    async def deployment(self, deployment_id: str) -> ModelDeployment | None:
        """Read the record of a deployment."""
        ...

    async def open_deployments(
        self, service: ServiceKey | None = None
    ) -> Sequence[ModelDeployment]:
        """Read the records without an end time, of one service or of all, oldest first."""
        ...

    async def users(self, thing: Registered, most: int) -> Sequence[ModelDeployment]:
        """Read at most `most` records without an end time that use the thing."""
        ...

    async def models(self, project: str, size: int, position: int | None) -> Page[RegisteredModel]:
        """Read a page of a project's models, from a position on."""
        ...

    async def versions(
        self, model: ModelKey, size: int, position: int | None
    ) -> Page[ModelVersion]:
        """Read a page of a model's versions, from a position on."""
        ...

    async def environments(
        self, project: str, size: int, position: int | None
    ) -> Page[ServingEnvironment]:
        """Read a page of a project's environments, from a position on."""
        ...

    async def deployments(
        self, wanted: DeploymentFilter, size: int, position: int | None
    ) -> Page[ModelDeployment]:
        """Read a page of records, from a position on."""
        ...


class RegistryWriting(RegistryReading, Protocol):
    """A transaction that writes the registry.

    Until it ends, no other transaction changes a single thing that it read, nor the
    `open_deployments` of a service that it read.
    """

    async def add(self, thing: Registered | ModelDeployment) -> None:
        """Store a new thing. Raises AlreadyExists if its name is taken."""
        ...

    async def replace(self, thing: Registered | ModelDeployment) -> None:
        """Store a change of a thing that was read in this transaction."""
        ...

    async def remove(self, thing: Registered | ModelDeployment) -> None:
        """Remove a thing; a model with its versions."""
        ...


class Registry(Protocol):
    """The store of models, versions, environments and the records of deployments.

    Its methods raise the errors of `work`, and RegistryUnavailable. Nothing is stored then, unless
    the message says that this is unknown.
    """

    async def read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        """Run work that reads one consistent state."""
        ...

    async def write(self, work: Callable[[RegistryWriting], Awaitable[Result]]) -> Result:
        """Run work that writes, and store all of it or nothing.

        The work is run again after a conflict with another transaction, so it must have no other
        effects.
        """
        ...

    async def lead(self, holder: str, term: timedelta) -> bool:
        """Take or renew the lease for recording; False if another holder has it.

        It ends `term` from now by the database's clock. No term is longer than two minutes: a lease
        with a later end is from before the clock was set back, and counts as ended.
        """
        ...

    async def resign(self, holder: str) -> None:
        """Give up the lease."""
        ...

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each change of `reachable`."""
        ...

    def reachable(self) -> bool:
        """Report whether the registry answered the last request."""
        ...
