"""A scripted API server whose ControllerRevisions can be written."""

from __future__ import annotations

import copy
import uuid
from collections import deque
from http import HTTPStatus
from typing import Any

from aiohttp import web

from tests.adapters.kserve.scripted_server import Collection, Fault, Object, ScriptedServer

NAMED = "/apis/apps/v1/namespaces/team-a/controllerrevisions"
ALL = "/apis/apps/v1/controllerrevisions"
SERVICES = "/apis/serving.kserve.io/v1beta1/inferenceservices"
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/team-a/inferenceservices/iris"
LACKING = 'User "u" cannot list resource "controllerrevisions" in API group "apps"'


class RevisionServer(ScriptedServer):
    """`write_faults` answer the next writes, one each. `writes` has the method and name of each.
    `service_reads` counts the reads of one service.

    The paths and methods that are `forbidden` are refused as for an account without rights, and the
    revisions of `invalid` generations as such.
    """

    def __init__(self) -> None:
        super().__init__()
        self.write_faults: deque[Fault] = deque()
        self.writes: list[tuple[str, str]] = []
        self.service_reads = 0
        self.forbidden: set[str] = set()
        self.invalid: set[int] = set()

    @property
    def revisions(self) -> dict[int, Object]:
        """The stored ControllerRevisions by generation."""
        stored = self.collections.get(ALL, Collection()).objects.values()
        return {revision["revision"]: revision for revision in stored}

    @property
    def outcomes(self) -> dict[int, str]:
        """The outcomes of the stored ControllerRevisions, by generation."""
        return {
            generation: stored["metadata"]["annotations"].get("modelservice.dev/outcome", "")
            for generation, stored in sorted(self.revisions.items())
        }

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in self.forbidden:
            return _status(HTTPStatus.FORBIDDEN, LACKING)
        if request.path == SERVICE:
            self.service_reads += 1
            services = self.collections[SERVICES].objects.values()
            found = [o for o in services if o["metadata"]["name"] == "iris"]
            return web.json_response(found[0]) if found else _status(HTTPStatus.NOT_FOUND)
        if not request.path.startswith(NAMED):
            return await super()._answer(request)
        if request.method == "GET" and request.path == NAMED:
            if self.list_faults:
                return await self.list_faults.popleft()(self, request)
            metadata = {"resourceVersion": str(self.version)}
            items = list(self.revisions.values())
            return web.json_response({"metadata": metadata, "items": items})
        if request.method != "GET" and self.write_faults:
            return await self.write_faults.popleft()(self, request)
        return await self._write(request)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        name = request.path.removeprefix(NAMED).strip("/") or body["metadata"]["name"]
        if request.method != "GET":
            self.writes.append((request.method, name))
        if request.method in self.forbidden:
            return _status(HTTPStatus.FORBIDDEN, LACKING)
        if request.method == "POST" and body["revision"] in self.invalid:
            return _status(HTTPStatus.UNPROCESSABLE_ENTITY)
        stored = {o["metadata"]["name"]: o for o in self.revisions.values()}
        held = stored.get(name)
        if request.method == "POST":
            if held:
                return _status(HTTPStatus.CONFLICT, reason="AlreadyExists")
            body["metadata"] |= {
                "uid": str(uuid.uuid4()),
                "creationTimestamp": "2030-01-01T00:00:00Z",
            }
            await self.put(ALL, body)
            return web.json_response(body, status=HTTPStatus.CREATED)
        if held is None:
            return _status(HTTPStatus.NOT_FOUND)
        if request.method == "DELETE":
            await self.remove(ALL, held["metadata"]["uid"])
        if request.method == "PATCH":
            changed: dict[str, Any] = copy.deepcopy(held)
            if body["metadata"].pop("resourceVersion") != held["metadata"]["resourceVersion"]:
                return _status(HTTPStatus.CONFLICT)
            annotations = changed["metadata"]["annotations"] | body["metadata"]["annotations"]
            changed["metadata"]["annotations"] = {k: v for k, v in annotations.items() if v}
            await self.put(ALL, changed)
        return web.json_response(held)


def _status(status: HTTPStatus, message: str = "", reason: str = "") -> web.Response:
    body = {"kind": "Status", "code": status.value, "message": message, "reason": reason}
    return web.json_response(body, status=status.value)
