"""Recording: records of deployments are kept at what the cluster says, by one replica at a time.

What a record says depends on the present alone (`server.domain.registry.deployment_progress`), so
that whoever takes over, after whatever was missed, comes to the same. The lease keeps replicas from
doing the same work. A record stays right where two of them think that they have it, since each
write is made only onto the record that it was decided on.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from server.change_queue import ChangeQueue
from server.control.watch_cache import ALL, View
from server.domain.errors import KServeMissing, ServerLacksRights, ServiceError
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.deployment_progress import needs_confirmation, with_loss, with_status
from server.domain.registry.registry_errors import RegistryUnavailable
from server.domain.service.inference_service import ServiceKey
from server.ports import Cluster, Registry, RegistryReading, RegistryWriting

log = structlog.get_logger(__name__)

Decision = Callable[[ModelDeployment, datetime], ModelDeployment]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are done, in seconds.

    A lease not renewed for `term` is another's to take; `sweep` is between two looks at all open
    records, `pause` between two questions for the lease, and for a registry that is away.
    `after_bug` is longer than a term: a replica of another release may do better.
    """

    term: float = 6.0
    sweep: float = 10.0
    pause: float = 1.0
    after_bug: float = 10.0


class Recording:
    """Follows the view in the records of deployments."""

    def __init__(
        self, registry: Registry, cluster: Cluster, view: View, pace: Pace | None = None
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._view = view
        self._pace = pace or Pace()
        self._lease = _Lease(registry, self._pace.term)
        self._sweep_at = 0.0
        self._unconfirmed: set[str] = set()

    async def run(self) -> None:
        """Follow whenever no other replica does, until cancelled; then another may at once."""
        with self._view.subscribe(ServiceKey(ALL, "")) as changes:
            try:
                while True:
                    while not self._sees():
                        await changes.wait(self._pace.pause)
                    await asyncio.sleep(await self._followed(changes))
                    # A replica that does not lead has no use for them.
                    changes.clear()
            finally:
                await self._lease.give_up()

    async def _followed(self, changes: ChangeQueue[ServiceKey]) -> float:
        """Follow for as long as that goes well; answers the seconds to rest. What a bug keeps from
        it, such as a record that cannot be read, keeps nobody from the server."""
        try:
            await self._follow(changes)
        except RegistryUnavailable:
            pass
        except Exception as e:
            log.error("records cannot follow their services", exc_info=e)
            return self._pace.after_bug
        return self._pace.pause

    async def _follow(self, changes: ChangeQueue[ServiceKey]) -> None:
        """Follow for as long as this replica leads; one that is cut off leaves it to another."""
        # What a predecessor left, or was missed meanwhile, is looked at first.
        self._sweep_at = 0.0
        while self._sees() and await self._lease.held():
            await self._catch_up(changes)

    def _sees(self) -> bool:
        return self._view.synced and self._cluster.reachable()

    async def _catch_up(self, changes: ChangeQueue[ServiceKey]) -> None:
        if time.monotonic() >= self._sweep_at:
            # The sweep covers them, and what changes from here on is told again.
            changes.clear()
            await self._look_at(None)
            self._sweep_at = time.monotonic() + self._pace.sweep
        await changes.wait(min(self._pace.sweep, self._pace.term / 3))
        for key in changes.pull():
            await self._look_at(key)

    async def _look_at(self, key: ServiceKey | None) -> None:
        """Bring the open records of a service, or all, to what is seen."""
        records, now = await self._registry.read(partial(_open, key))
        for record in records:
            if not await self._lease.held():
                return
            if not await self._settle(record, now):
                await self._look_at(record.service)
            # A sweep of thousands lets callers through.
            await asyncio.sleep(0)

    async def _settle(self, record: ModelDeployment, now: datetime) -> bool:
        """Bring one record to what is seen; False: it has changed meanwhile. One that a bug keeps
        from it keeps neither the others nor the server."""
        try:
            decide = await self._decision(record, now)
            if decide(record, now) is record:
                return True
            return await self._registry.write(partial(_store, record, decide))
        except ServiceError:
            raise
        except Exception as e:
            log.error("a record cannot follow its service", deployment=record.id, exc_info=e)
            return True

    async def _decision(self, record: ModelDeployment, now: datetime) -> Decision:
        seen = self._view.get(record.service)
        if needs_confirmation(record, seen, now) and self._cluster.reachable():
            try:
                seen = await self._cluster.read(record.service)
                gone = needs_confirmation(record, seen, now)
            except (ServerLacksRights, KServeMissing) as e:
                gone = self._saw_go(record, e)
            except ServiceError:
                # It is asked again by the next sweep.
                gone = False
            else:
                self._unconfirmed.discard(record.id)
            if gone:
                return with_loss
        return lambda record, now: with_status(record, seen, now)

    def _saw_go(self, record: ModelDeployment, refusal: ServiceError) -> bool:
        """Whether the feed told that the record's very service went, where the cluster does not let
        itself be asked: a deleted namespace takes the rights in it along. A service that is merely
        unseen may run on, and be seen again once the rights are back, when no end can be undone."""
        if record.rollout and self._view.has_departed(record.rollout.uid):
            self._unconfirmed.discard(record.id)
            return True
        if record.id not in self._unconfirmed:
            self._unconfirmed.add(record.id)
            log.warning(
                "whether a service is gone cannot be asked: its record stays open until it can",
                deployment=record.id,
                service=str(record.service),
                why=refusal.message,
            )
        return False


class _Lease:
    """The right to follow, by the database's clock; by this process's it ends no later."""

    def __init__(self, registry: Registry, term: float) -> None:
        self._registry = registry
        self._holder = secrets.token_hex(8)
        self._term = term
        self._renewed = 0.0

    async def held(self) -> bool:
        """Whether this replica is the one; renewed in good time. Raises RegistryUnavailable."""
        asked = time.monotonic()
        if self._renewed and asked < self._renewed + self._term / 3:
            return True
        self._renewed = 0.0
        if await self._registry.lead(self._holder, timedelta(seconds=self._term)):
            self._renewed = asked
        return bool(self._renewed)

    async def give_up(self) -> None:
        """Let another replica lead at once, if the registry answers at once."""
        with suppress(RegistryUnavailable, TimeoutError):
            async with asyncio.timeout(self._term / 3):
                await self._registry.resign(self._holder)


async def _open(
    key: ServiceKey | None, registry: RegistryReading
) -> tuple[Sequence[ModelDeployment], datetime]:
    return await registry.open_deployments(key), await registry.now()


async def _store(read: ModelDeployment, decide: Decision, registry: RegistryWriting) -> bool:
    """Store what is decided on a record that was read; False where it is no longer that."""
    stored = await registry.deployment(read.id)
    if stored != read:
        return False
    await registry.replace(decide(stored, await registry.now()))
    return True
