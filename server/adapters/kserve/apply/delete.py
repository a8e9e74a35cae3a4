"""Delete on the API server: of the very object that was admitted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from server.adapters.kserve.apply.api_server_errors import error_of, is_stale
from server.adapters.kserve.apply.retry import (
    CurrentObject,
    StaleObject,
    retry_on_conflict,
    service_after_write,
)
from server.adapters.kserve.apply.service_objects import ServiceObjects, Terms
from server.adapters.kserve.client import Answer
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

    def __init__(self, objects: ServiceObjects, feed: StatusFeed) -> None:
        self._objects = objects
        self._feed = feed

    async def delete(self, delete: Delete) -> InferenceService:
        """Begin the deletion; see `server.ports.Cluster.delete`."""
        terms = Terms(delete.validate_only, delete.deadline)

        async def attempt(current: CurrentObject) -> InferenceService:
            return await self._attempt(delete, current, terms)

        return await retry_on_conflict(
            attempt, delete.key, self._feed, self._objects, terms.deadline
        )

    async def _attempt(
        self, delete: Delete, current: CurrentObject, terms: Terms
    ) -> InferenceService:
        """Delete once. Raises StaleObject instead of a refusal that rests on a held object."""
        parsed = current.parsed
        try:
            admitted = admit_delete(delete, parsed.service(PENDING_STATUS) if parsed else None)
        except ServiceError as refused:
            if current.live:
                raise
            raise StaleObject from refused
        preconditions = {"uid": admitted.uid}
        if delete.etag and parsed:
            preconditions["resourceVersion"] = parsed.obj["metadata"]["resourceVersion"]
        answer = await self._objects.delete(delete.key, preconditions, terms)
        if is_stale(answer):
            raise StaleObject
        if not answer.ok:
            raise error_of(answer, delete.key, writes=not delete.validate_only)
        if delete.validate_only:
            return self._feed.derive(delete.key) or admitted
        return self._deleted(admitted, answer)

    def _deleted(self, admitted: InferenceService, answer: Answer) -> InferenceService:
        if answer.body.get("kind") == KIND:
            return service_after_write(self._feed, answer.body, _DELETING)
        # Nothing held it up: it is gone already.
        return replace(admitted, delete_time=datetime.now(UTC), status=_DELETING)
