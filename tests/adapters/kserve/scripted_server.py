"""An HTTP server on loopback with real lists and watches, which fails on demand.

It stands in for an API server only for faults that a real one cannot be made to show.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Fault = Callable[["ScriptedServer", web.Request], Awaitable[web.StreamResponse]]
Object = dict[str, Any]
GROUP_DEPTH = 3


@dataclass
class Collection:
    """The objects of one path, and everything that happened to them."""

    objects: dict[str, Object] = field(default_factory=dict)
    history: list[tuple[int, str, Object]] = field(default_factory=list)


class ScriptedServer:
    """`list_faults` and `watch_faults` answer the next requests, one each; then all is well.

    `texts` are answered as they are, by path; to ask for what is `absent` gives 404.
    `groups` has the collections of optional API groups, by the group's path.
    `requests` has every request's kind ("list", "watch", "group", "probe", "text", "schema") and
    path in order. `schemas` is what it publishes of the API's schemas, by path; as a rule nothing.
    While `held_up` is clear no request is answered.
    """

    def __init__(self) -> None:
        self.collections: dict[str, Collection] = {}
        self.list_faults: deque[Fault] = deque()
        self.watch_faults: deque[Fault] = deque()
        self.probe_fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []
        self.version = 100
        self.bookmark_every = 0.1
        self.bearer: str | None = None
        self.texts: dict[str, str] = {}
        self.absent: set[str] = set()
        self.groups: dict[str, list[str]] = {}
        self.schemas: dict[str, object] = {}
        self.schema_faults: deque[Fault] = deque()
        self._black_holes = 0
        self.held_up = asyncio.Event()
        self.held_up.set()
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Condition()

    def count(self, kind: str) -> int:
        return sum(1 for k, _ in self.requests if k == kind)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def kubeconfig(self, folder: Path, token: str = "t0") -> str:
        path = folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "scripted",
            "contexts": [{"name": "scripted", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path.write_text(json.dumps(config))
        return str(path)

    def black_hole(self) -> None:
        """Answer nothing more: open streams never again, requests once `held_up` is set."""
        self._black_holes += 1
        self.held_up.clear()

    async def put(self, path: str, found: Object) -> None:
        """Store an object as the next version, and send it to the watches."""
        collection = self.collections.setdefault(path, Collection())
        uid = found["metadata"]["uid"]
        kind = "MODIFIED" if uid in collection.objects else "ADDED"
        # With its version, without a wait between them: a list has both or neither.
        collection.objects[uid] = found
        await self._record(collection, kind, found)

    async def remove(self, path: str, uid: str) -> None:
        collection = self.collections[path]
        await self._record(collection, "DELETED", collection.objects.pop(uid))

    async def _record(self, collection: Collection, kind: str, found: Object) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        collection.history.append((self.version, kind, json.loads(json.dumps(found))))
        async with self._changed:
            self._changed.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        kind = self._kind(request)
        self.requests.append((kind, request.path))
        await self.held_up.wait()
        if self.bearer and request.headers.get("Authorization") != f"Bearer {self.bearer}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if kind == "probe":
            return await self.probe_fault(self, request) if self.probe_fault else web.Response()
        if kind == "text":
            return web.Response(text=self.texts[request.path])
        if kind == "group" and request.path in self.groups:
            names = [{"name": name} for name in self.groups[request.path]]
            return web.json_response({"resources": names})
        if kind == "schema" and self.schema_faults:
            return await self.schema_faults.popleft()(self, request)
        if kind == "schema" and request.path in self.schemas:
            return web.json_response(self.schemas[request.path])
        if kind in ("group", "schema") or request.path in self.absent:
            return await answering(404)(self, request)
        faults = self.watch_faults if kind == "watch" else self.list_faults
        if faults:
            return await faults.popleft()(self, request)
        return await (self.watch(request) if kind == "watch" else self.list(request))

    def _kind(self, request: web.Request) -> str:
        if request.path == "/readyz":
            return "probe"
        if request.path in self.texts:
            return "text"
        if request.path.startswith("/openapi/"):
            return "schema"
        if request.path.startswith("/apis/") and request.path.count("/") == GROUP_DEPTH:
            return "group"
        return "watch" if "watch" in request.query else "list"

    async def list(self, request: web.Request) -> web.StreamResponse:
        """The objects, or a page of at most `limit`: those of one moment, whatever happens."""
        collection = self.collections.get(request.path, Collection())
        moment, start = self.version, 0
        if "continue" in request.query:
            moment, start = (int(n) for n in request.query["continue"].split("/"))
        found = list(collection.objects.values())
        end = start + int(request.query.get("limit", len(found)))
        metadata = {"resourceVersion": str(moment)}
        if end < len(found):
            metadata["continue"] = f"{moment}/{end}"
        return web.json_response({"metadata": metadata, "items": found[start:end]})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        response = await streaming(request)
        collection = self.collections.setdefault(request.path, Collection())
        version = int(request.query["resourceVersion"])
        opened_in = self._black_holes
        while True:
            if self._black_holes > opened_in:
                await asyncio.Event().wait()
            for at, kind, found in list(collection.history):
                if at > version:
                    await response.write(event_line(kind, found))
                    version = at
            await response.write(bookmark_line(max(version, self.version)))
            version = max(version, self.version)
            await self._next_change()

    async def _next_change(self) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(self.bookmark_every):
                    await self._changed.wait()
            except TimeoutError:
                return


@asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer()
    await server.start()
    try:
        yield server
    finally:
        server.held_up.set()
        await server.stop()


async def streaming(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def event_line(kind: str, found: Object) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


def bookmark_line(version: int) -> bytes:
    return event_line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def answering(status: int, body: object = None, headers: dict[str, str] | None = None) -> Fault:
    """Answer with a status, as the API server does."""

    async def fault(_: ScriptedServer, __: web.Request) -> web.StreamResponse:
        return web.json_response(
            body or {"kind": "Status", "code": status}, status=status, headers=headers
        )

    return fault


async def html_500(_: ScriptedServer, __: web.Request) -> web.StreamResponse:
    """Answer as a load balancer in front does."""
    return web.Response(status=500, text="<html>oops</html>", content_type="text/html")


async def html_200(_: ScriptedServer, __: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>\nwelcome\n</html>\n", content_type="text/html")


async def expired_in_stream(_: ScriptedServer, request: web.Request) -> web.StreamResponse:
    response = await streaming(request)
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    await response.write(event_line("ERROR", gone))
    return response


async def ending_at_once(_: ScriptedServer, request: web.Request) -> web.StreamResponse:
    return await streaming(request)


async def cut_in_a_line(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
    """Send half of the next event, then reset the connection."""
    response = await streaming(request)
    _, kind, found = server.collections[request.path].history[-1]
    line = event_line(kind, found)
    await response.write(line[: len(line) // 2])
    assert request.transport
    request.transport.abort()
    return response


async def without_end(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
    """Bytes for as long as they are read."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 2**16)


async def never(_: ScriptedServer, __: web.Request) -> web.StreamResponse:
    """A black hole."""
    await asyncio.Event().wait()
    raise AssertionError
