"""The recorder keeps the records of deployments at the cluster's state, on one replica at a time.

A record depends on the current state alone (`server.domain.registry.deployment_progress`), so any
replica comes to the same result, whatever it missed. The lease only saves replicas from doing the
same work: each write is conditional on the record that it was decided on.
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

from server.control.wakeups import Subscription
from server.control.watch_cache import ALL, WatchCache
from server.domain.errors import KServeMissing, ServerLacksRights, ServiceError
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.deployment_progress import needs_confirmation, with_loss, with_status
from server.domain.registry.registry_errors import RegistryUnavailable
from server.domain.service.inference_service import ServiceKey
from server.ports import Cluster, Registry, RegistryReading, RegistryWriting

log = structlog.get_logger(__name__)

_EVERYTHING = ServiceKey(ALL, "")
Decision = Callable[[ModelDeployment, datetime], ModelDeployment]


@dataclass(frozen=True, slots=True)
class RecorderTiming:
    """Times of the recorder, in seconds.

    `term`: of the lease. `sweep`: between two reads of all open records. `pause`: between two
    attempts to get the lease or to reach the registry. `after_bug` is longer than a term, so that a
    replica of another release may take over.
    """

    term: float = 6.0
    sweep: float = 10.0
    pause: float = 1.0
    after_bug: float = 10.0


class DeploymentRecorder:
    """Updates the records of deployments from the watch cache."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        cache: WatchCache,
        timing: RecorderTiming | None = None,
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._cache = cache
        self._timing = timing or RecorderTiming()
        self._lease = _Lease(registry, self._timing.term)
        self._sweep_at = 0.0
        self._unconfirmed: set[str] = set()

    async def run(self) -> None:
        """Record while this replica holds the lease, until cancelled; then release the lease."""
        with self._cache.subscribe(_EVERYTHING) as changes:
            try:
                while True:
                    while not self._is_current():
                        await changes.wait(self._timing.pause)
                    await asyncio.sleep(await self._lead(changes))
                    # A replica that does not lead has no use for them.
                    changes.version = self._cache.version
            finally:
                await self._lease.release()

    async def _lead(self, changes: Subscription) -> float:
        """Record while this replica leads, and return the seconds to pause.

        A bug, such as an unreadable record, stops the recorder only, not the server.
        """
        try:
            # Changes before this replica led are in the first sweep.
            self._sweep_at = 0.0
            while self._is_current() and await self._lease.hold():
                await self._record_changes(changes)
        except RegistryUnavailable:
            pass
        except Exception as e:
            log.error("the recorder of deployments failed", exc_info=e)
            return self._timing.after_bug
        return self._timing.pause

    def _is_current(self) -> bool:
        return self._cache.synced and self._cluster.reachable()

    async def _record_changes(self, changes: Subscription) -> None:
        if time.monotonic() >= self._sweep_at:
            # The sweep covers what has changed; later changes are read after it.
            changes.version = self._cache.version
            await self._update_records(None)
            self._sweep_at = time.monotonic() + self._timing.sweep
        since = await changes.wait(min(self._timing.sweep, self._timing.term / 3))
        changed = self._cache.changes_since(since, _EVERYTHING, with_labels=False)
        if changed is None:
            self._sweep_at = 0.0
            return
        keys = [tombstone.service.key for tombstone in changed.deleted]
        for key in dict.fromkeys([*keys, *(entry.service.key for entry in changed.changed)]):
            await self._update_records(key)

    async def _update_records(self, key: ServiceKey | None) -> None:
        """Update the open records of a service, or all of them."""
        records, now = await self._registry.read(partial(_open, key))
        for record in records:
            if not await self._lease.hold():
                return
            if not await self._update(record, now):
                await self._update_records(record.service)
            # A sweep of thousands must not hold up calls.
            await asyncio.sleep(0)

    async def _update(self, record: ModelDeployment, now: datetime) -> bool:
        """Update a record; False if it has changed since it was read. A bug of one record affects
        neither the others nor the server."""
        try:
            decide = await self._decide(record, now)
            if decide(record, now) is record:
                return True
            return await self._registry.write(partial(_store, record, decide))
        except ServiceError:
            raise
        except Exception as e:
            log.error("a record of a deployment failed", deployment=record.id, exc_info=e)
            return True

    async def _decide(self, record: ModelDeployment, now: datetime) -> Decision:
        service = self._cache.get(record.service)
        if needs_confirmation(record, service, now) and self._cluster.reachable():
            try:
                service = await self._cluster.read(record.service)
                gone = needs_confirmation(record, service, now)
            except (ServerLacksRights, KServeMissing) as e:
                gone = self._saw_deletion(record, e)
            except ServiceError:
                # The next sweep asks again.
                gone = False
            else:
                self._unconfirmed.discard(record.id)
            if gone:
                return with_loss
        return lambda record, now: with_status(record, service, now)

    def _saw_deletion(self, record: ModelDeployment, refusal: ServiceError) -> bool:
        """Return whether the feed reported the deletion of the record's uid, where the cluster may
        not be asked: deleting a namespace removes the rights in it too.

        A service that is merely not visible may run on, and be visible again with the rights. The
        end of its record could not be undone.
        """
        if record.rollout and self._cache.is_deleted(record.rollout.uid):
            self._unconfirmed.discard(record.id)
            return True
        if record.id not in self._unconfirmed:
            self._unconfirmed.add(record.id)
            log.warning(
                "the record of a deployment stays open: its service is not visible, and this server"
                " may not read it",
                deployment=record.id,
                service=str(record.service),
                why=refusal.message,
            )
        return False


class _Lease:
    """The lease of the recorder, by the database's clock. By this process's it ends no later."""

    def __init__(self, registry: Registry, term: float) -> None:
        self._registry = registry
        self._holder = secrets.token_hex(8)
        self._term = term
        self._renewed = 0.0

    async def hold(self) -> bool:
        """Return whether this replica holds the lease, acquired or renewed in time. Raises
        RegistryUnavailable."""
        now = time.monotonic()
        if self._renewed and now < self._renewed + self._term / 3:
            return True
        self._renewed = 0.0
        if await self._registry.lead(self._holder, timedelta(seconds=self._term)):
            self._renewed = now
        return bool(self._renewed)

    async def release(self) -> None:
        """Let another replica lead at once, if the registry answers at once."""
        with suppress(RegistryUnavailable, TimeoutError):
            async with asyncio.timeout(self._term / 3):
                await self._registry.resign(self._holder)


async def _open(
    key: ServiceKey | None, registry: RegistryReading
) -> tuple[Sequence[ModelDeployment], datetime]:
    return await registry.open_deployments(key), await registry.now()


async def _store(read: ModelDeployment, decide: Decision, registry: RegistryWriting) -> bool:
    """Store the decision on a record; False if it has changed since it was read."""
    stored = await registry.deployment(read.id)
    if stored != read:
        return False
    await registry.replace(decide(stored, await registry.now()))
    return True
