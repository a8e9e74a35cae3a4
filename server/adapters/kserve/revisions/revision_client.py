"""Read and write ControllerRevisions over HTTP, one request a method.

Raises Unreachable and Unanswered of the client, and RevisionRefused.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any

import msgspec

from server import failpoints
from server.adapters.kserve.client import Answer, ApiServer
from server.adapters.kserve.informers.collections import METADATA
from server.adapters.kserve.informers.reflector import LARGEST_WHOLE
from server.adapters.kserve.informers.watch_stream import Refused, parse_retry_after, read_page
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
from server.token_bucket import TokenBucket

_TIMEOUT = 5.0
# Of all services together: after an upgrade each has a revision to store.
WRITES_A_SECOND, BURST = 30.0, 10.0
_LONGEST_MESSAGE = 200
_OF_CONTENT = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
_MERGE = "application/merge-patch+json"

_parse = msgspec.json.Decoder(dict[str, Any]).decode


class RevisionRefused(Exception):
    """The API server refused a request."""

    def __init__(self, answer: Answer, verb: str, key: ServiceKey) -> None:
        message = str(answer.body.get("message", ""))[:_LONGEST_MESSAGE]
        super().__init__(f"HTTP {answer.status} to {verb} in namespace {key.namespace}: {message}")
        self.answer = answer

    @property
    def is_of_content(self) -> bool:
        """Return whether the request of another rollout may work."""
        return self.answer.status in _OF_CONTENT

    @property
    def retry_after(self) -> float:
        """Return the seconds that the API server asks to wait: any number."""
        return parse_retry_after(self.answer.headers.get("Retry-After"))


class RevisionClient:
    """Reads and writes ControllerRevisions, at most WRITES_A_SECOND."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._writes = TokenBucket(WRITES_A_SECOND, BURST)

    async def list(self, key: ServiceKey, uid: str) -> list[RolloutRecord]:
        """Return the stored revisions of a service, as the API server has them now."""
        # With a limit Kubernetes reads the whole namespace in etcd, where its cache would do.
        query = {"labelSelector": f"{REVISION_OF_LABEL}={uid}"}
        content = await self._api.read(_path(key), query, most=LARGEST_WHOLE, timeout=_TIMEOUT)
        answer = content.answer()
        if not answer.ok:
            raise RevisionRefused(answer, "list", key)
        try:
            items = read_page(content.body).items or ()
        except Refused:
            raise RevisionRefused(answer, "list", key) from None
        records: list[RolloutRecord] = []
        for item in items:
            if record := parse_record(_parse(item)):
                records.append(record)
            # Each may have LARGEST_CONTENT.
            await asyncio.sleep(0)
        return records

    async def create(self, key: ServiceKey, record: RolloutRecord) -> bool | None:
        """Store a revision. Return False if it is stored already, None if it can never be: its
        namespace is being deleted, say."""
        await self._take_turn()
        failpoints.reached("before-revision")
        answer = await self._api.send(
            "POST", _path(key), body=manifest_of(key, record), timeout=_TIMEOUT
        )
        failpoints.reached("after-revision")
        if answer.ok:
            return True
        if answer.body.get("reason") == "AlreadyExists":
            return False
        if _is_terminating(answer):
            return None
        raise RevisionRefused(answer, "create", key)

    async def read(self, key: ServiceKey, rollout: Rollout) -> RolloutRecord | None:
        """Return a stored revision without its content; None if there is none."""
        answer = await self._api.send("GET", _path(key, rollout), accept=METADATA, timeout=_TIMEOUT)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if not answer.ok:
            raise RevisionRefused(answer, "get", key)
        return parse_record(answer.body)

    async def store(self, key: ServiceKey, record: RolloutRecord) -> bool:
        """Store what has changed of a revision. Return False if another writer was faster, or the
        revision is gone."""
        await self._take_turn()
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
        raise RevisionRefused(answer, "patch", key)

    async def delete(self, key: ServiceKey, rollout: Rollout) -> None:
        """Delete a revision; one that is gone is deleted."""
        await self._take_turn()
        answer = await self._api.send("DELETE", _path(key, rollout), timeout=_TIMEOUT)
        if not answer.ok and answer.status != HTTPStatus.NOT_FOUND:
            raise RevisionRefused(answer, "delete", key)

    async def _take_turn(self) -> None:
        now = time.monotonic()
        delay = self._writes.delay(now)
        self._writes.take(now)
        await asyncio.sleep(delay)


def _is_terminating(answer: Answer) -> bool:
    """Return whether the namespace of an object is being deleted, or is gone."""
    causes = get_list(get_map(answer.body, "details"), "causes")
    return answer.status == HTTPStatus.NOT_FOUND or any(
        cause.get("reason") == "NamespaceTerminating" for cause in causes
    )


def _path(key: ServiceKey, rollout: Rollout | None = None) -> str:
    name = f"/{object_name(key.name, rollout)}" if rollout else ""
    return f"/apis/apps/v1/namespaces/{key.namespace}/controllerrevisions{name}"
