"""Carry out what is due for one service: create, change and delete its ControllerRevisions."""

from __future__ import annotations

from server.adapters.kserve.informers.held_revision import KnownRevision
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.manifests.object_parser import ParsedObject, parse_object
from server.adapters.kserve.objects import Object
from server.adapters.kserve.revisions.pending_rollouts import (
    Change,
    PendingRollouts,
    outcome_due,
    rollout_due,
    superseded_due,
)
from server.adapters.kserve.revisions.revision_client import RevisionClient, RevisionRefused
from server.adapters.kserve.revisions.revision_index import RevisionIndex
from server.adapters.kserve.revisions.rollout_record import RolloutRecord, record_of
from server.domain.revisions.revision import to_keep
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import ServiceKey

_TRIES = 5


class RevisionWriter:
    """Stores the revisions of a service, at most `most` and four more.

    Raises Unreachable and Unanswered of the client, and RevisionRefused.
    """

    def __init__(
        self, client: RevisionClient, index: RevisionIndex, cache: ObjectCache, most: int
    ) -> None:
        self._client = client
        self._index = index
        self._cache = cache
        self._most = most

    async def write(self, key: ServiceKey, pending: PendingRollouts) -> bool:
        """Store what is pending of a service, oldest first, and prune what is too old.

        Return whether a revision was created. What is stored is pending no more.
        """
        created = False
        refusal: RevisionRefused | None = None
        for generation in sorted(pending.objects):
            try:
                created |= await self._write_rollout(key, pending, generation)
            except RevisionRefused as e:
                if not e.is_of_content:
                    raise
                # Later rollouts may be stored. One that never is becomes a gap.
                refusal = e
                pending.refuse(generation)
            else:
                pending.objects.pop(generation, None)
        while pending.statuses:
            generation = min(pending.statuses)
            status = pending.statuses[generation]
            known = self._index.of(key.namespace, pending.uid)
            if change := outcome_due(Rollout(pending.uid, generation), status, known):
                await self._change(key, pending.uid, change)
            if pending.statuses.get(generation) is status:
                del pending.statuses[generation]
        for change in superseded_due(self._index.of(key.namespace, pending.uid)):
            await self._change(key, pending.uid, change)
        if created:
            await self._prune(key, pending.uid)
        if refusal:
            raise refusal
        return created

    async def _write_rollout(
        self, key: ServiceKey, pending: PendingRollouts, generation: int
    ) -> bool:
        """Store a rollout if it is a revision that is not stored. Return whether it was created."""
        known = self._index.of(key.namespace, pending.uid)
        # Others came meanwhile, and this one was the oldest of too many.
        obj = pending.objects.get(generation)
        if obj is None or any(k.generation == generation for k in known):
            return False
        if "deletionTimestamp" in obj["metadata"]:
            return False
        parsed = self._parsed(key, obj)
        # A service of ours whose labels others took stays one of ours.
        if parsed.unmanaged and not known:
            self._index.note_foreign(key, Rollout(pending.uid, generation))
            return False
        due = rollout_due(record_of(parsed), known, pending)
        if isinstance(due, Change):
            await self._change(key, pending.uid, due)
            return False
        if len(known) > self._most + 3:
            # Where none may be deleted, no more are stored.
            await self._prune(key, pending.uid)
        return await self._create(key, due)

    def _parsed(self, key: ServiceKey, obj: Object) -> ParsedObject:
        """Parse an InferenceService, which was parsed already if it is the present one."""
        present = self._cache.parsed(key) if self._cache.service(key) is obj else None
        return present or parse_object(obj)

    async def _create(self, key: ServiceKey, record: RolloutRecord) -> bool:
        """Create a revision. Return False if it is stored already, or never can be."""
        created = await self._client.create(key, record)
        if created is None:
            return False
        uid, generation = record.revision.rollout
        if all(k.generation != generation for k in self._index.of(key.namespace, uid)):
            # Another replica stored it without an outcome, as far as is known.
            other = KnownRevision(generation, record.content_hash)
            self._index.put(key.namespace, uid, record.known if created else other)
        return created

    async def _change(self, key: ServiceKey, uid: str, change: Change) -> None:
        """Change a stored revision, unless another replica did."""
        for _ in range(_TRIES):
            stored = await self._client.read(key, Rollout(uid, change.generation))
            if stored is None:
                self._index.drop(key.namespace, uid, change.generation)
                return
            changed = change.changed(stored)
            if changed == stored or await self._client.store(key, changed):
                self._index.put(key.namespace, uid, changed.known)
                return

    async def _prune(self, key: ServiceKey, uid: str) -> None:
        """Delete the revisions that are too many."""
        if len(self._index.of(key.namespace, uid)) <= self._most:
            return
        stored = await self._client.list(key, uid)
        revisions = sorted((r.revision for r in stored), key=lambda r: r.number, reverse=True)
        kept = to_keep(revisions, self._most)
        for revision in revisions:
            if revision not in kept:
                await self._client.delete(key, revision.rollout)
                self._index.drop(key.namespace, uid, revision.number)
