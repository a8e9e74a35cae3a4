"""Read and write ControllerRevisions over HTTP, one request a method.

Raises Unreachable and Unanswered of the client, and RevisionRefused.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec

from server import failpoints
from server.adapters.kserve.client import Answer, ApiServer
from server.adapters.kserve.informers.collections import METADATA
from server.adapters.kserve.informers.reflector import LARGEST_WHOLE
from server.adapters.kserve.informers.watch_stream import Refused, read_page
from server.adapters.kserve.names import REVISION_OF_LABEL
from server.adapters.kserve.objects import get_list, get_map
from server.adapters.kserve.revisions.rollout_record import (
    RolloutRecord,
    manifest_of,
    object_name,
    parse_record,
    record_patch,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import ServiceKey

_TIMEOUT = 5.0
# Of one list. Pruning leaves at most 52.
MOST_LISTED = 100
_MERGE = "application/merge-patch+json"

_parse = msgspec.json.Decoder(dict[str, Any]).decode


class RevisionRefused(Exception):
    """The API server refused a request."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer = answer

    @property
    def is_brief(self) -> bool:
        """Return whether the same request may work in a moment."""
        brief = (HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
        status = self.answer.status
        return status in brief or status >= HTTPStatus.INTERNAL_SERVER_ERROR


class RevisionClient:
    """Reads and writes ControllerRevisions."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def list(self, key: ServiceKey, uid: str) -> list[RolloutRecord]:
        """Return the stored revisions of a service, as the API server has them now."""
        query = {"labelSelector": f"{REVISION_OF_LABEL}={uid}", "limit": str(MOST_LISTED)}
        content = await self._api.read(_path(key), query, most=LARGEST_WHOLE, timeout=_TIMEOUT)
        answer = content.answer()
        if not answer.ok:
            raise RevisionRefused(answer)
        try:
            items = read_page(content.body).items or ()
        except Refused:
            raise RevisionRefused(answer) from None
        records: list[RolloutRecord] = []
        for item in items:
            if record := parse_record(_parse(item)):
                records.append(record)
            # Each may have LARGEST_DATA.
            await asyncio.sleep(0)
        return records

    async def create(self, key: ServiceKey, record: RolloutRecord) -> bool:
        """Store a revision. Return False if it is stored already, or can never be: its namespace
        is being deleted, say."""
        failpoints.reached("before-revision")
        answer = await self._api.send(
            "POST", _path(key), body=manifest_of(key, record), timeout=_TIMEOUT
        )
        failpoints.reached("after-revision")
        if answer.ok:
            return True
        if answer.body.get("reason") == "AlreadyExists" or _is_terminating(answer):
            return False
        raise RevisionRefused(answer)

    async def read(self, key: ServiceKey, rollout: Rollout) -> RolloutRecord | None:
        """Return a stored revision without its content; None if there is none."""
        answer = await self._api.send("GET", _path(key, rollout), accept=METADATA, timeout=_TIMEOUT)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if not answer.ok:
            raise RevisionRefused(answer)
        return parse_record(answer.body)

    async def store(self, key: ServiceKey, record: RolloutRecord) -> bool:
        """Store what has changed of a revision. Return False if another writer was faster, or the
        revision is gone."""
        failpoints.reached("before-revision-outcome")
        answer = await self._api.send(
            "PATCH",
            _path(key, record.revision.rollout),
            body=record_patch(record),
            content_type=_MERGE,
            accept=METADATA,
            timeout=_TIMEOUT,
        )
        if answer.ok:
            return True
        if answer.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
            return False
        raise RevisionRefused(answer)

    async def delete(self, key: ServiceKey, rollout: Rollout) -> None:
        """Delete a revision; one that is gone is deleted."""
        answer = await self._api.send("DELETE", _path(key, rollout), timeout=_TIMEOUT)
        if not answer.ok and answer.status != HTTPStatus.NOT_FOUND:
            raise RevisionRefused(answer)


def _is_terminating(answer: Answer) -> bool:
    """Return whether the namespace of an object is being deleted, or is gone."""
    causes = get_list(get_map(answer.body, "details"), "causes")
    return answer.status == HTTPStatus.NOT_FOUND or any(
        cause.get("reason") == "NamespaceTerminating" for cause in causes
    )


def _path(key: ServiceKey, rollout: Rollout | None = None) -> str:
    name = f"/{object_name(key.name, rollout)}" if rollout else ""
    return f"/apis/apps/v1/namespaces/{key.namespace}/controllerrevisions{name}"
