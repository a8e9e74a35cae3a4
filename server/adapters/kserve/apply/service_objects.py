"""InferenceServices over HTTP: one request a method.

What keeps an answer from coming is raised as the domain's errors; answers that refuse are returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server import failpoints
from server.adapters.kserve.apply.api_server_errors import (
    error_of,
    is_absent,
    outcome_unknown,
    unavailable,
)
from server.adapters.kserve.apply.write_queue import WriteQueue
from server.adapters.kserve.client import Answer, ApiServer, Unanswered, Unreachable
from server.adapters.kserve.names import API_VERSION, FIELD_MANAGER, RESOURCE
from server.deadline import Deadline
from server.domain.service.inference_service import ServiceKey

RawObject = Mapping[str, Any]

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON = "application/json"

# Enough for an answer from nearby where a caller's time has all but run out.
LEAST_TIME = 0.2


@dataclass(frozen=True, slots=True)
class Terms:
    """How a write is sent: only tried (`dry_run`), and until when its answer is waited for."""

    dry_run: bool
    deadline: Deadline


class ServiceObjects:
    """Reads and writes InferenceServices; `queue` has the turns of those who write."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self.queue = WriteQueue()

    async def get(self, key: ServiceKey, deadline: Deadline) -> RawObject | None:
        """The object as it is now; None where there is none."""
        try:
            answer = await self._api.send("GET", _path(key), timeout=deadline.left(LEAST_TIME))
        except (Unreachable, Unanswered) as e:
            raise unavailable(e) from e
        if answer.ok:
            return answer.body
        if is_absent(answer):
            return None
        raise error_of(answer, key, writes=False)

    async def apply(
        self, key: ServiceKey, manifest: RawObject, terms: Terms, *, force: bool
    ) -> Answer:
        """Server-side apply; uid and resourceVersion in the manifest are preconditions."""
        query = {**_patch_query(terms), "force": str(force).lower()}
        return await self._write("PATCH", key, manifest, terms, _APPLY, query)

    async def merge(self, key: ServiceKey, patch: RawObject, terms: Terms) -> Answer:
        """A merge patch; uid and resourceVersion in it are preconditions."""
        return await self._write("PATCH", key, patch, terms, _MERGE, _patch_query(terms))

    async def delete(
        self, key: ServiceKey, preconditions: Mapping[str, str], terms: Terms
    ) -> Answer:
        """Foreground: the object stays until KServe's children and their pods are gone."""
        options = {
            "propagationPolicy": "Foreground",
            "preconditions": dict(preconditions),
            # With a body the query is not looked at.
            "dryRun": ["All"] if terms.dry_run else [],
        }
        return await self._write("DELETE", key, options, terms, _JSON, {})

    async def _write(
        self,
        method: str,
        key: ServiceKey,
        body: RawObject,
        terms: Terms,
        content_type: str,
        query: Mapping[str, str],
    ) -> Answer:
        if not terms.dry_run:
            failpoints.reached("before-write")
        try:
            answer = await self._api.send(
                method,
                _path(key),
                query=query,
                body=body,
                content_type=content_type,
                timeout=terms.deadline.left(LEAST_TIME),
            )
        except Unreachable as e:
            raise unavailable(e) from e
        except Unanswered as e:
            raise (unavailable(e) if terms.dry_run else outcome_unknown(key)) from e
        if not terms.dry_run:
            failpoints.reached("after-write")
        return answer


def _patch_query(terms: Terms) -> dict[str, str]:
    return {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if terms.dry_run else {})}


def _path(key: ServiceKey) -> str:
    return f"/apis/{API_VERSION}/namespaces/{key.namespace}/{RESOURCE}/{key.name}"
