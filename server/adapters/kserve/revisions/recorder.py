"""Record the rollouts of services as ControllerRevisions, after the writes that began them.

Any replica records any rollout that it sees: each chooses the same name, so one object is stored.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus

import structlog

from server.adapters.kserve.apply.api_server_errors import error_of, unavailable
from server.adapters.kserve.apply.service_client import ServiceClient
from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.held_revision import KnownRevision
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.informers.watch_stream import Backoff
from server.adapters.kserve.manifests.object_parser import ParsedObject, parse_object
from server.adapters.kserve.objects import Object, generation_of, key_of, rollout_of, uid_of
from server.adapters.kserve.revisions.history import Numbered, before, history_of, new_revision
from server.adapters.kserve.revisions.retry_pauses import RetryPauses
from server.adapters.kserve.revisions.revision_client import RevisionClient, RevisionRefused
from server.adapters.kserve.revisions.revision_index import RevisionIndex
from server.adapters.kserve.revisions.rollout_record import (
    RolloutRecord,
    later_fields_of,
    news_of,
    record_of,
)
from server.change_queue import ChangeQueue
from server.deadline import Deadline
from server.domain.revisions.revision import (
    Revision,
    RevisionOutcome,
    superseded,
    to_keep,
    with_status,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey

# The answer to a Deploy and the controllers come first.
AFTER_WRITE = 1.0
# The replica that wrote comes before the others, and they do not come at one moment.
AFTER_SIGHT = (3.0, 5.0)
AFTER_OUTCOME = (1.0, 3.0)
AFTER_START = (0.0, 2.0)
LOGGED_EVERY = 60.0
_READ_SECONDS = 5.0
_TRIES = 5
_LONGEST_STANDSTILL = 30.0
# States that can decide an outcome.
_DECIDING = (State.READY, State.FAILED, State.DEGRADED)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Seen:
    """What was seen of one uid of a service and is not stored yet, by generation; `refused` has how
    often each was."""

    uid: str
    objects: dict[int, Object] = field(default_factory=dict)
    statuses: dict[int, InferenceServiceStatus] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)

    def was_ready(self, generation: int) -> bool:
        """Return whether a generation was seen READY."""
        status = self.statuses.get(generation)
        return status is not None and status.state is State.READY

    def limit(self, most: int) -> None:
        """Drop the oldest generations that are too many; those that were READY come last."""
        for seen in (self.objects, self.statuses):
            while len(seen) > most:
                del seen[min(seen, key=lambda generation: (self.was_ready(generation), generation))]


class RevisionRecorder:
    """Stores the revisions of services while `run` runs; at most `most` of each, and four more.

    It sends one request at a time. Of a service it holds as many rollouts that are not stored yet;
    earlier ones would be pruned.
    """

    def __init__(
        self, api: ApiServer, namespaces: Sequence[str], most: int, feed: StatusFeed
    ) -> None:
        self._client = RevisionClient(api)
        self._services = ServiceClient(api)
        self._index = RevisionIndex(api, namespaces, self._look_again, self._let_all_be_due)
        self._most = most
        self._most_seen = most + 2
        self._feed = feed
        self._seen: dict[ServiceKey, _Seen] = {}
        # The newest rollout of a service of others, which has no revisions.
        self._others: dict[ServiceKey, Rollout] = {}
        self._due = ChangeQueue[ServiceKey]()
        self._timers: dict[ServiceKey, asyncio.TimerHandle] = {}
        # All services are due after a start: in a random order, so that replicas share them, and
        # after those that have changed since.
        self._backlog: list[ServiceKey] = []
        self._pauses = RetryPauses()
        self._unreachable = Backoff()
        # Before that, statuses are not kept: those of all services come at the start.
        self._synced = asyncio.Event()
        self._failed = 0
        self._logged = float("-inf")
        feed.observe_rollouts(self)

    def synced(self) -> None:
        """Take it that all services are known: those without a revision get one."""
        self._synced.set()
        asyncio.get_running_loop().call_later(_between(AFTER_START), self._let_all_be_due)

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
        if service.status.state not in _DECIDING or self._index.refused(service.key.namespace):
            return
        if not self._synced.is_set():
            return
        uid, generation = service.rollout
        present = self._present(service.key, service.rollout)
        if present is None and self._others.get(service.key) == service.rollout:
            return
        if present and _decided(present, service.rollout, service.status) == present.news:
            return
        seen = self._seen_of(service.key, uid)
        if seen.was_ready(generation):
            return
        seen.statuses[generation] = service.status
        seen.limit(self._most_seen)
        self._schedule(service.key, _between(AFTER_OUTCOME))

    def forget(self, key: ServiceKey) -> None:
        """Forget a deleted service."""
        self._seen.pop(key, None)
        self._others.pop(key, None)
        self._pauses.end(key)
        self._due.discard(key)
        if timer := self._timers.pop(key, None):
            timer.cancel()

    async def revisions(self, key: ServiceKey) -> Sequence[Revision]:
        """See `server.ports.Cluster`."""
        obj = await self._services.get(key, Deadline.after(_READ_SECONDS))
        if obj is None:
            return ()
        rollout = rollout_of(obj)
        try:
            stored = await self._client.list(key, rollout.uid)
        except (Unreachable, Unanswered) as e:
            raise unavailable(e) from e
        except RevisionRefused as e:
            raise error_of(e.answer, key, writes=False) from e
        pending = self._seen.get(key)
        if pending is None or pending.uid != rollout.uid:
            pending = _Seen(rollout.uid)
        stored = self._with_seen_outcomes(stored, pending)
        objects = {n: o for n, o in pending.objects.items() if n < rollout.generation}
        records = (record_of(parse_object(objects[generation])) for generation in sorted(objects))
        seen = [self._with_seen_outcome(record, pending) for record in records]
        seen.append(record_of(parse_object(obj)))
        newest, *older = history_of(stored, seen, self._most)
        shown = self._feed.derive(key)
        if shown and shown.rollout == rollout:
            newest = _ended(newest, rollout, shown.status)
        return [newest, *older]

    async def run(self) -> None:
        """Follow what is stored, and store what is not."""
        await self._synced.wait()  # the services come first
        try:
            async with asyncio.TaskGroup() as tasks:
                for reflector in self._index.reflectors:
                    tasks.create_task(reflector.run(), name=f"reflector of {reflector.resource}")
                for reflector in self._index.reflectors:
                    await reflector.synced.wait()
                await self._record_all()
        finally:
            for key in list(self._timers):
                self._timers.pop(key).cancel()

    async def _record_all(self) -> None:
        while True:
            if not self._backlog:
                await self._due.wait()
            for key in self._due.pull():
                await self._try(key)
            if self._backlog:
                await self._try(self._backlog.pop())

    async def _try(self, key: ServiceKey) -> None:
        """Store what was seen of a service, unless it is paused; after a failure it is later."""
        if self._pauses.left(key):
            self._schedule(key, 0)
            return
        try:
            if await self._record(key):
                self._pauses.end(key.namespace)
        except RevisionRefused as e:
            self._note_failure(e)
            self._pauses.fail(key, e.retry_after)
            # A quota, a policy or a missing right is of a namespace.
            if e.answer.status == HTTPStatus.FORBIDDEN:
                self._pauses.fail(key.namespace)
            self._schedule(key, 0)
            if e.answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                await asyncio.sleep(min(e.retry_after, _LONGEST_STANDSTILL))
        except Unreachable as e:
            self._note_failure(e)
            self._due.add(key)
            await asyncio.sleep(self._unreachable.pause(0))
        except Unanswered as e:
            self._note_failure(e)
            self._pauses.fail(key)
            self._schedule(key, 0)
        except Exception:
            # An object that we cannot read must not stop the records of other services.
            log.exception("a rollout could not be recorded", service=str(key))
            self._seen.pop(key, None)
        else:
            self._pauses.end(key)
            self._unreachable = Backoff()
        # Most of them are stored already, which takes no request.
        await asyncio.sleep(0)

    async def _record(self, key: ServiceKey) -> bool:
        """Store what was seen of a service, oldest first. Return whether a revision was stored."""
        if not self._index.readable(key.namespace):
            self._seen.pop(key, None)
            return False
        unrecorded = self._unrecorded(key)
        seen = self._seen.get(key) or unrecorded
        if seen is None:
            return False
        if unrecorded and unrecorded.uid == seen.uid:
            seen.objects = unrecorded.objects | seen.objects
            seen.statuses = unrecorded.statuses | seen.statuses
        stored = False
        refusal: RevisionRefused | None = None
        for generation in sorted(seen.objects):
            try:
                stored |= await self._record_rollout(key, seen, generation)
            except RevisionRefused as e:
                if not e.is_of_content:
                    raise
                # Later rollouts may be stored. One that never is becomes a gap.
                refusal = e
                seen.refused[generation] += 1
                if seen.refused[generation] < _TRIES:
                    continue
            seen.objects.pop(generation, None)
        while seen.statuses:
            generation = min(seen.statuses)
            status = seen.statuses[generation]
            await self._record_outcome(key, Rollout(seen.uid, generation), status)
            if seen.statuses.get(generation) is status:
                del seen.statuses[generation]
        await self._supersede(key, seen.uid)
        if stored:
            await self._prune(key, seen.uid)
        if not seen.objects and not seen.statuses and self._seen.get(key) is seen:
            del self._seen[key]
        if refusal:
            raise refusal
        return stored

    def _unrecorded(self, key: ServiceKey) -> _Seen | None:
        """Return what is not stored of a service as it is now; None if all is."""
        obj = self._feed.object_cache.service(key)
        if obj is None:
            return None
        seen, generation = _Seen(uid_of(obj)), generation_of(obj)
        known = self._index.of(key.namespace, seen.uid)
        rollout = Rollout(seen.uid, generation)
        present = self._present(key, rollout)
        if present is None and self._others.get(key) != rollout:
            seen.objects[generation] = obj
        if seen.objects or (present and present.outcome is not RevisionOutcome.READY):
            shown = self._feed.derive(key)
            if shown and shown.rollout == rollout and shown.status.state in _DECIDING:
                seen.statuses[generation] = shown.status
        return seen if known or seen.objects else None

    async def _record_rollout(self, key: ServiceKey, seen: _Seen, generation: int) -> bool:
        """Store a rollout if it is a revision that is not stored. Return whether it was stored."""
        known = self._index.of(key.namespace, seen.uid)
        # Others came meanwhile, and this one was the oldest of too many.
        obj = seen.objects.get(generation)
        if obj is None or any(k.generation == generation for k in known):
            return False
        if "deletionTimestamp" in obj["metadata"]:
            return False
        parsed = self._parsed(key, obj)
        # A service of ours whose labels others took stays one of ours.
        if parsed.unmanaged and not known:
            self._others[key] = Rollout(seen.uid, generation)
            return False
        record = record_of(parsed)
        new = new_revision(known, record)
        if new is None:
            former = before(known, generation)
            assert former
            later = later_fields_of(record.revision.content)

            def changed(kept: RolloutRecord) -> RolloutRecord:
                if kept.seen_until > generation:
                    return kept
                return replace(kept, later_fields=later, seen_until=generation)

            await self._update(key, Rollout(seen.uid, former.generation), changed)
            return False
        new = self._with_seen_outcome(new, seen)
        if any(k.generation > generation for k in known):
            new = replace(new, revision=superseded(new.revision))
        if len(known) > self._most + 3:
            # Where none may be deleted, no more are stored.
            await self._prune(key, seen.uid)
        stored = await self._client.create(key, new)
        if stored is None:
            return False
        if all(k.generation != generation for k in self._index.of(key.namespace, seen.uid)):
            # Another replica stored it without an outcome, as far as is known.
            made = new.known if stored else KnownRevision(generation, new.content_hash)
            self._index.put(key.namespace, seen.uid, made)
        return stored

    def _parsed(self, key: ServiceKey, obj: Object) -> ParsedObject:
        """Parse an InferenceService, which was parsed already if it is the present one."""
        cache = self._feed.object_cache
        present = cache.parsed(key) if cache.service(key) is obj else None
        return present or parse_object(obj)

    async def _record_outcome(
        self, key: ServiceKey, rollout: Rollout, status: InferenceServiceStatus
    ) -> None:
        present = self._present(key, rollout)
        if present is None or _decided(present, rollout, status) == present.news:
            return
        number = Rollout(rollout.uid, present.generation)
        await self._update_outcome(key, number, lambda r: _ended(r, rollout, status))

    async def _supersede(self, key: ServiceKey, uid: str) -> None:
        """Give the revisions before the newest one an outcome."""
        for known in self._index.of(key.namespace, uid)[:-1]:
            if known.outcome is None:
                await self._update_outcome(key, Rollout(uid, known.generation), superseded)

    async def _update_outcome(
        self, key: ServiceKey, rollout: Rollout, change: Callable[[Revision], Revision]
    ) -> None:
        def changed(record: RolloutRecord) -> RolloutRecord:
            revision = change(record.revision)
            is_news = news_of(revision) != news_of(record.revision)
            return replace(record, revision=revision) if is_news else record

        await self._update(key, rollout, changed)

    async def _update(
        self,
        key: ServiceKey,
        rollout: Rollout,
        change: Callable[[RolloutRecord], RolloutRecord],
    ) -> None:
        """Change a stored revision, unless another replica did."""
        for _ in range(_TRIES):
            stored = await self._client.read(key, rollout)
            if stored is None:
                self._index.drop(key.namespace, rollout.uid, rollout.generation)
                return
            changed = change(stored)
            if changed == stored or await self._client.store(key, changed):
                self._index.put(key.namespace, rollout.uid, changed.known)
                return

    async def _prune(self, key: ServiceKey, uid: str) -> None:
        if len(self._index.of(key.namespace, uid)) <= self._most:
            return
        stored = await self._client.list(key, uid)
        revisions = sorted((r.revision for r in stored), key=lambda r: r.number, reverse=True)
        kept = to_keep(revisions, self._most)
        for revision in revisions:
            if revision not in kept:
                await self._client.delete(key, revision.rollout)
                self._index.drop(key.namespace, uid, revision.number)

    def _take(self, obj: Object, delay: float) -> None:
        key, uid = key_of(obj), uid_of(obj)
        if self._index.refused(key.namespace):
            return
        generation = generation_of(obj)
        rollout = Rollout(uid, generation)
        if self._present(key, rollout) or self._others.get(key) == rollout:
            return
        seen = self._seen_of(key, uid)
        if generation not in seen.objects:
            # It may be stored where the former one was not.
            self._pauses.end(key)
        seen.objects[generation] = obj
        seen.limit(self._most_seen)
        self._schedule(key, delay)

    def _seen_of(self, key: ServiceKey, uid: str) -> _Seen:
        seen = self._seen.get(key)
        if seen is None or seen.uid != uid:
            seen = self._seen[key] = _Seen(uid)
        return seen

    def _schedule(self, key: ServiceKey, delay: float) -> None:
        """Let a service be due after so many seconds and its pause, unless it is due earlier."""
        loop = asyncio.get_running_loop()
        delay = max(delay, self._pauses.left(key))
        if timer := self._timers.get(key):
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(delay, self._let_be_due, key)

    def _let_be_due(self, key: ServiceKey) -> None:
        self._timers.pop(key, None)
        self._due.add(key)

    def _look_again(self, key: ServiceKey) -> None:
        """Look at a service whose revisions have changed: the present one may not be among them."""
        obj = self._feed.object_cache.service(key)
        if obj is not None and self._present(key, rollout_of(obj)) is None:
            self._schedule(key, _between(AFTER_SIGHT))

    def _let_all_be_due(self) -> None:
        self._backlog = [*self._feed.object_cache.keys()]
        random.shuffle(self._backlog)
        if self._backlog:
            self._due.add(self._backlog.pop())

    def _present(self, key: ServiceKey, rollout: Rollout) -> KnownRevision | None:
        """Return the stored revision of a rollout; None if it is not known which one that is."""
        known = self._index.of(key.namespace, rollout.uid)
        newest = before(known, rollout.generation + 1)
        return newest if newest and _is_of(newest, rollout.generation) else None

    def _with_seen_outcome(self, record: RolloutRecord, seen: _Seen) -> RolloutRecord:
        status = seen.statuses.get(record.generation)
        if status is None:
            return record
        rollout = record.revision.rollout
        return replace(record, revision=_ended(record.revision, rollout, status))

    def _with_seen_outcomes(
        self, stored: Sequence[RolloutRecord], seen: _Seen
    ) -> list[RolloutRecord]:
        """Return the stored revisions with the outcomes that are not stored yet."""
        records = {record.generation: record for record in stored}
        for generation, status in sorted(seen.statuses.items()):
            record = before(records.values(), generation + 1)
            if record is not None and _is_of(record, generation):
                rollout = Rollout(seen.uid, generation)
                ended = _ended(record.revision, rollout, status)
                records[record.generation] = replace(record, revision=ended)
        return list(records.values())

    def _note_failure(self, why: Exception) -> None:
        self._failed += 1
        now = time.monotonic()
        if now - self._logged >= LOGGED_EVERY:
            log.warning("revisions not stored", why=str(why), tries=self._failed)
            self._logged, self._failed = now, 0


def _between(seconds: tuple[float, float]) -> float:
    return random.uniform(*seconds)  # noqa: S311 (jitter)


def _is_of(newest: Numbered, generation: int) -> bool:
    """Return whether a generation was seen to be of the newest revision until then."""
    return generation in (newest.generation, newest.seen_until)


def _decided(
    present: KnownRevision, rollout: Rollout, status: InferenceServiceStatus
) -> tuple[object, ...]:
    """Return the news of a service's newest revision once its status counts."""
    revision = Revision(Rollout(rollout.uid, present.generation), None, outcome=present.outcome)
    changed = with_status(revision, rollout, status)
    return present.news if changed is revision else news_of(changed)


def _ended(newest: Revision, rollout: Rollout, status: InferenceServiceStatus) -> Revision:
    """Return the newest revision with the outcome that the status shows.

    A service that served all the time has been READY since before the rollout: the rollout itself
    is READY from now on.
    """
    changed = with_status(newest, rollout, status)
    if changed is newest or changed.ready_time is None or changed.create_time is None:
        return changed
    if changed.ready_time >= changed.create_time:
        return changed
    return replace(changed, ready_time=datetime.now(UTC))
