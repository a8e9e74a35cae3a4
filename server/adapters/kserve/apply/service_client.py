"""Read and write InferenceServices over HTTP, one request a method.

A request without an answer raises a ServiceError; a refusing answer is returned.
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
from server.adapters.kserve.client import Answer, ApiServer, Unanswered, Unreachable
from server.adapters.kserve.names import API_VERSION, FIELD_MANAGER, RESOURCE
from server.adapters.kserve.objects import Object
from server.deadline import Deadline
from server.domain.service.inference_service import ServiceKey

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON = "application/json"

# Long enough for an answer from nearby when the caller's time has run out.
LEAST_TIME = 0.2


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Whether a write is a dry run, and until when to wait for its answer."""

    dry_run: bool
    deadline: Deadline


class ServiceClient:
    """Reads and writes InferenceServices."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def get(self, key: ServiceKey, deadline: Deadline) -> Object | None:
        """Return the object as the API server has it now; None if there is none."""
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
        self, key: ServiceKey, manifest: Object, options: WriteOptions, *, force: bool
    ) -> Answer:
        """Send a server-side apply; uid and resourceVersion in the manifest are preconditions."""
        query = {**_patch_query(options), "force": str(force).lower()}
        return await self._write("PATCH", key, manifest, options, _APPLY, query)

    async def merge(self, key: ServiceKey, patch: Object, options: WriteOptions) -> Answer:
        """Send a merge patch; uid and resourceVersion in it are preconditions."""
        return await self._write("PATCH", key, patch, options, _MERGE, _patch_query(options))

    async def delete(
        self, key: ServiceKey, preconditions: Mapping[str, str], options: WriteOptions
    ) -> Answer:
        """Delete in the foreground: the object stays until its children and pods are gone."""
        body = {
            "propagationPolicy": "Foreground",
            "preconditions": dict(preconditions),
            # The API server ignores the query of a DELETE with a body.
            "dryRun": ["All"] if options.dry_run else [],
        }
        return await self._write("DELETE", key, body, options, _JSON, {})

    async def _write(
        self,
        method: str,
        key: ServiceKey,
        body: Mapping[str, Any],
        options: WriteOptions,
        content_type: str,
        query: Mapping[str, str],
    ) -> Answer:
        if not options.dry_run:
            failpoints.reached("before-write")
        try:
            answer = await self._api.send(
                method,
                _path(key),
                query=query,
                body=body,
                content_type=content_type,
                timeout=options.deadline.left(LEAST_TIME),
            )
        except Unreachable as e:
            raise unavailable(e) from e
        except Unanswered as e:
            raise (unavailable(e) if options.dry_run else outcome_unknown(key)) from e
        if not options.dry_run:
            failpoints.reached("after-write")
        return answer


def _patch_query(options: WriteOptions) -> dict[str, str]:
    return {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if options.dry_run else {})}


def _path(key: ServiceKey) -> str:
    return f"/apis/{API_VERSION}/namespaces/{key.namespace}/{RESOURCE}/{key.name}"
