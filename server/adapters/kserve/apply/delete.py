"""Carry out a Delete: delete only the object that passed the preconditions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from server.adapters.kserve.apply.api_server_errors import error_of, is_stale
from server.adapters.kserve.apply.event_recorder import EventRecorder
from server.adapters.kserve.apply.retry import (
    ConflictRetry,
    CurrentObject,
    StaleObject,
    service_after_write,
)
from server.adapters.kserve.apply.service_client import ServiceClient, WriteOptions
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.manifests.object_parser import PENDING_STATUS
from server.adapters.kserve.names import KIND
from server.domain.errors import ServiceError
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import Delete
from server.domain.service.inference_service import InferenceService
from server.domain.service.preconditions import admit_delete

_DELETING = InferenceServiceStatus(State.DELETING)


class ServiceDeleter:
    """Carries out Deletes."""

    def __init__(
        self,
        client: ServiceClient,
        retry: ConflictRetry,
        feed: StatusFeed,
        events: EventRecorder,
    ) -> None:
        self._client = client
        self._retry = retry
        self._feed = feed
        self._events = events

    async def delete(self, delete: Delete) -> InferenceService:
        """Begin the deletion; see `server.ports.Cluster.delete`."""
        return await self._retry.run(delete.key, delete.deadline, partial(self._attempt, delete))

    async def _attempt(self, delete: Delete, current: CurrentObject) -> InferenceService:
        """Delete once. Raises StaleObject instead of an error that rests on the cache."""
        options = WriteOptions(delete.validate_only, delete.deadline)
        parsed = current.parsed
        try:
            admitted = admit_delete(delete, parsed.service(PENDING_STATUS) if parsed else None)
        except ServiceError as error:
            if current.live:
                raise
            raise StaleObject from error
        preconditions = {"uid": admitted.uid}
        if delete.etag and parsed:
            preconditions["resourceVersion"] = parsed.obj["metadata"]["resourceVersion"]
        answer = await self._client.delete(delete.key, preconditions, options)
        if is_stale(answer):
            raise StaleObject
        if not answer.ok:
            raise error_of(answer, delete.key, writes=not delete.validate_only)
        if delete.validate_only:
            return self._feed.derive(delete.key) or admitted
        if parsed and "deletionTimestamp" not in parsed.obj["metadata"]:
            self._events.deleted(delete.user, parsed.obj)
        if answer.body.get("kind") == KIND:
            return service_after_write(self._feed, answer.body, _DELETING)
        # No finalizer held it: the object is gone already.
        if parsed:
            self._feed.put_deleted(parsed.obj)
        return replace(admitted, delete_time=datetime.now(UTC), status=_DELETING)
