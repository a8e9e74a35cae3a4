"""Record the rollouts of services as ControllerRevisions, after the writes that began them.

Any replica records any rollout that it sees: each chooses the same name, so one object is stored.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from http import HTTPStatus

import structlog

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.informers.watch_stream import Backoff
from server.adapters.kserve.objects import Object, generation_of, key_of, rollout_of, uid_of
from server.adapters.kserve.revisions.pending_rollouts import PendingRollouts, is_news
from server.adapters.kserve.revisions.retry_pauses import RetryPauses
from server.adapters.kserve.revisions.revision_client import RevisionClient, RevisionRefused
from server.adapters.kserve.revisions.revision_index import RevisionIndex
from server.adapters.kserve.revisions.revision_writer import RevisionWriter
from server.adapters.kserve.revisions.work_queue import WorkQueue
from server.domain.revisions.revision import RevisionOutcome
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import State
from server.domain.service.inference_service import InferenceService, ServiceKey

# The answer to a Deploy and the controllers come first.
AFTER_WRITE = 1.0
# The replica that wrote comes before the others, and they do not come at one moment.
AFTER_SIGHT = (3.0, 5.0)
AFTER_OUTCOME = (1.0, 3.0)
AFTER_START = (0.0, 2.0)
LOGGED_EVERY = 60.0
# Services, with one request each: a request that hangs takes its whole timeout.
AT_ONCE = 4
_LONGEST_STANDSTILL = 30.0
# States that can decide an outcome.
_DECIDING = (State.READY, State.FAILED, State.DEGRADED)

log = structlog.get_logger(__name__)


class RevisionRecorder:
    """Records the rollouts that the feed reports while `run` runs; implements `RolloutObserver`.

    At most `most` revisions of a service are stored, and four more. Of each service it holds as
    many rollouts that are not stored yet; earlier ones would be pruned.
    """

    def __init__(
        self, api: ApiServer, namespaces: Sequence[str], most: int, feed: StatusFeed
    ) -> None:
        self._feed = feed
        self._index = RevisionIndex(api, namespaces, self._look_again, self._look_at_all)
        self._writer = RevisionWriter(RevisionClient(api), self._index, feed.object_cache, most)
        self._pending: dict[ServiceKey, PendingRollouts] = {}
        self._most_pending = most + 2
        self._pauses = RetryPauses()
        self._queue = WorkQueue(self._pauses)
        self._unreachable = Backoff()
        # Before that, statuses are not kept: those of all services come at the start.
        self._synced = asyncio.Event()
        self._failed = 0
        self._logged = float("-inf")
        feed.observe_rollouts(self)

    def pending_of(self, key: ServiceKey) -> PendingRollouts | None:
        """Return what was seen of a service and is not stored yet."""
        return self._pending.get(key)

    def synced(self) -> None:
        """Take it that all services are known: those without a revision get one."""
        self._synced.set()
        asyncio.get_running_loop().call_later(_between(AFTER_START), self._look_at_all)

    def generation_seen(self, former: Object | None, obj: Object) -> None:
        """Take a generation of an InferenceService that was not seen before.

        The former one may not have had its turn since the start.
        """
        if former is not None and uid_of(former) == uid_of(obj):
            self._take(former, _between(AFTER_SIGHT))
        self._take(obj, _between(AFTER_SIGHT))

    def written(self, obj: Object) -> None:
        """Take the API server's answer to a write of this server."""
        self._take(obj, AFTER_WRITE)

    def reported(self, service: InferenceService) -> None:
        """Take the present status of a service."""
        key, rollout = service.key, service.rollout
        if service.status.state not in _DECIDING or self._index.refused(key.namespace):
            return
        if not self._synced.is_set():
            return
        stored = self._index.revision_of(key, rollout)
        if stored is None and self._index.is_foreign(key, rollout):
            return
        if stored and not is_news(stored, rollout, service.status):
            return
        pending = self._pending_at(key, rollout.uid)
        if pending.was_ready(rollout.generation):
            return
        pending.statuses[rollout.generation] = service.status
        pending.limit(self._most_pending)
        self._queue.add_after(key, _between(AFTER_OUTCOME))

    def forget(self, key: ServiceKey) -> None:
        """Forget a deleted service."""
        self._pending.pop(key, None)
        self._index.forget(key)
        self._pauses.end(key)
        self._queue.discard(key)

    async def run(self) -> None:
        """Follow what is stored, and store what is not."""
        await self._synced.wait()  # the services come first
        try:
            async with asyncio.TaskGroup() as tasks:
                for reflector in self._index.reflectors:
                    tasks.create_task(reflector.run(), name=f"reflector of {reflector.resource}")
                for reflector in self._index.reflectors:
                    await reflector.synced.wait()
                for nth in range(AT_ONCE):
                    tasks.create_task(self._work(), name=f"revision worker {nth}")
        finally:
            self._queue.stop()

    async def _work(self) -> None:
        """Store what is pending of one service after the other."""
        while True:
            key = await self._queue.get()
            try:
                await self._try(key)
            finally:
                self._queue.done(key)
            # Most of them are stored already, which takes no request.
            await asyncio.sleep(0)

    async def _try(self, key: ServiceKey) -> None:
        """Store what is pending of a service; after a failure it is tried again later."""
        try:
            created = await self._store(key)
        except RevisionRefused as e:
            self._note_failure(e)
            self._pauses.fail(key, e.retry_after)
            # A quota, a policy or a missing right is of a namespace.
            if e.answer.status == HTTPStatus.FORBIDDEN:
                self._pauses.fail(key.namespace)
            self._queue.add_after(key, 0)
            if e.answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                self._queue.stand_still(min(e.retry_after, _LONGEST_STANDSTILL))
        except Unreachable as e:
            self._note_failure(e)
            self._queue.add(key)
            self._queue.stand_still(self._unreachable.pause(0))
        except Unanswered as e:
            self._note_failure(e)
            self._pauses.fail(key)
            self._queue.add_after(key, 0)
        except Exception:
            # An object that we cannot read must not stop the records of other services.
            log.exception("a rollout could not be recorded", service=str(key))
            self._pending.pop(key, None)
        else:
            self._pauses.end(key)
            if created:
                self._pauses.end(key.namespace)
            self._unreachable = Backoff()

    async def _store(self, key: ServiceKey) -> bool:
        """Store what is pending of a service. Return whether a revision was created."""
        if not self._index.readable(key.namespace):
            self._pending.pop(key, None)
            return False
        present = self._present(key)
        pending = self._pending.get(key) or present
        if pending is None:
            return False
        if present and present.uid == pending.uid:
            pending.add(present)
        try:
            return await self._writer.write(key, pending)
        finally:
            if pending.is_empty and self._pending.get(key) is pending:
                del self._pending[key]

    def _present(self, key: ServiceKey) -> PendingRollouts | None:
        """Return what is not stored of the cached rollout of a service; None if it has no
        revisions."""
        obj = self._feed.object_cache.service(key)
        if obj is None:
            return None
        rollout = Rollout(uid_of(obj), generation_of(obj))
        pending = PendingRollouts(rollout.uid)
        stored = self._index.revision_of(key, rollout)
        if stored is None and not self._index.is_foreign(key, rollout):
            pending.objects[rollout.generation] = obj
        if pending.objects or (stored and stored.outcome is not RevisionOutcome.READY):
            shown = self._feed.derive(key)
            if shown and shown.rollout == rollout and shown.status.state in _DECIDING:
                pending.statuses[rollout.generation] = shown.status
        known = self._index.of(key.namespace, rollout.uid)
        return pending if known or pending.objects else None

    def _take(self, obj: Object, delay: float) -> None:
        key, rollout = key_of(obj), Rollout(uid_of(obj), generation_of(obj))
        if self._index.refused(key.namespace):
            return
        if self._index.revision_of(key, rollout) or self._index.is_foreign(key, rollout):
            return
        pending = self._pending_at(key, rollout.uid)
        if rollout.generation not in pending.objects:
            # It may be stored where the former one was not.
            self._pauses.end(key)
        pending.objects[rollout.generation] = obj
        pending.limit(self._most_pending)
        self._queue.add_after(key, delay)

    def _pending_at(self, key: ServiceKey, uid: str) -> PendingRollouts:
        pending = self._pending.get(key)
        if pending is None or pending.uid != uid:
            pending = self._pending[key] = PendingRollouts(uid)
        return pending

    def _look_again(self, key: ServiceKey) -> None:
        """Look at a service whose revisions have changed: the present one may not be among them."""
        obj = self._feed.object_cache.service(key)
        if obj is not None and self._index.revision_of(key, rollout_of(obj)) is None:
            self._queue.add_after(key, _between(AFTER_SIGHT))

    def _look_at_all(self) -> None:
        """Look at all services, after those that have changed."""
        self._queue.add_backlog(self._feed.object_cache.keys())

    def _note_failure(self, why: Exception) -> None:
        self._failed += 1
        now = time.monotonic()
        if now - self._logged >= LOGGED_EVERY:
            log.warning("revisions not stored", why=str(why), tries=self._failed)
            self._logged, self._failed = now, 0


def _between(seconds: tuple[float, float]) -> float:
    return random.uniform(*seconds)  # noqa: S311 (jitter)
