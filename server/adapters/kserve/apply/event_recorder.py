"""Events on InferenceServices that say who deployed or deleted them, as `kubectl describe` shows.

They are written after the answer, one at a time, and at most once each: a caller never waits for
one, and one that cannot be written is logged.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime
from typing import Any

import structlog

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.names import API_VERSION, FIELD_MANAGER, KIND
from server.adapters.kserve.objects import Object, rollout_of
from server.domain.service.commands import Action, Deploy

# Further ones are dropped.
MOST_WAITING = 1000
_SEND_SECONDS = 5.0
_LOGGED_EVERY_SECONDS = 60.0

log = structlog.get_logger(__name__)


class EventRecorder:
    """Writes Events while `run` runs."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MOST_WAITING)
        self._failed = 0
        self._logged = float("-inf")

    def deployed(self, deploy: Deploy, service: Object, action: Action) -> None:
        """Record that a Deploy wrote an InferenceService. Without a user this does nothing."""
        user, rollout = deploy.user, rollout_of(service).id
        done = f"{user} deployed rollout {rollout} ({action.value})"
        if deploy.rollback_of:
            done = f"{user} rolled back to revision {deploy.rollback_of}, in rollout {rollout}"
        self._put(user, service, "Deployed", done)

    def deleted(self, user: str, service: Object) -> None:
        """Record that a user's Delete began. Without a user this does nothing."""
        self._put(user, service, "Deleted", f"{user} deleted the service")

    async def run(self) -> None:
        """Write the Events as they come."""
        while True:
            event = await self._events.get()
            path = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
            try:
                answer = await self._api.send("POST", path, body=event, timeout=_SEND_SECONDS)
            except (Unreachable, Unanswered) as e:
                self._note_failure(str(e))
            else:
                if not answer.ok:
                    self._note_failure(f"the API server refuses it with {answer.status}")

    def _put(self, user: str, service: Object, reason: str, message: str) -> None:
        if not user:
            return
        try:
            self._events.put_nowait(_event(service, reason, message))
        except asyncio.QueueFull:
            self._note_failure("too many are waiting")

    def _note_failure(self, why: str) -> None:
        self._failed += 1
        now = time.monotonic()
        if now - self._logged >= _LOGGED_EVERY_SECONDS:
            log.warning("events not written", why=why, events=self._failed)
            self._logged, self._failed = now, 0


def _event(service: Object, reason: str, message: str) -> dict[str, Any]:
    metadata = service["metadata"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name']}.{secrets.token_hex(8)}",
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            **{name: metadata[name] for name in ("namespace", "name", "uid", "resourceVersion")},
        },
        "type": "Normal",
        "reason": reason,
        "message": message,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
