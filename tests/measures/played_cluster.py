"""An API server on loopback with one InferenceService, whose objects come from a recording."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from server.adapters.kserve.manifests.annotations import rollout_hash_of
from server.adapters.kserve.names import FIELD_MANAGER
from server.adapters.kserve.status.observed_objects import ObservedObjects
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.runtimes import STOCK
from tests.adapters.kserve.scripted_server import (
    Collection,
    ScriptedServer,
    event_line,
    streaming,
)
from tests.adapters.kserve.storing import stored

SERVICES = "/apis/serving.kserve.io/v1beta1/inferenceservices"
DEPLOYMENTS = "/apis/apps/v1/deployments"
REPLICA_SETS = "/apis/apps/v1/replicasets"
AUTOSCALERS = "/apis/autoscaling/v2/horizontalpodautoscalers"
PODS = "/api/v1/pods"
RUNTIMES = "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes"
CONFIG = "/api/v1/namespaces/kserve/configmaps/inferenceservice-config"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class PlayedCluster(ScriptedServer):
    """List, watch and apply without a fault. Nothing is sent while nothing changes.

    While `watches` is clear they send no changes either.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watches = asyncio.Event()
        self.watches.set()
        self._today = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.schemas["/openapi/v3"] = {"paths": {}}
        self.absent.add(CONFIG)
        self.groups = {
            "/apis/serving.knative.dev/v1": ["services", "revisions"],
            "/apis/rbac.authorization.k8s.io/v1": ["rolebindings", "clusterrolebindings"],
            "/apis/serving.kserve.io/v1alpha1": ["servingruntimes", "clusterservingruntimes"],
        }
        self.collections = {
            SERVICES: Collection(),
            RUNTIMES: Collection({r["metadata"]["name"]: r for r in STOCK}),
        }

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Answer a whole list; to a PATCH, the applied object."""
        if request.method == "PATCH":
            return web.json_response(await self._apply(json.loads(await request.text())))
        found = self.collections.get(request.path, Collection()).objects
        metadata = {"resourceVersion": str(self.version)}
        return web.json_response({"metadata": metadata, "items": list(found.values())})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Send every change since the requested version, without bookmarks."""
        response = await streaming(request)
        collection = self.collections.setdefault(request.path, Collection())
        version = int(request.query["resourceVersion"])
        while True:
            await self.watches.wait()
            for at, kind, found in collection.history:
                if at > version:
                    await response.write(event_line(kind, found))
            version = self.version
            async with self._changed:
                await self._changed.wait()

    async def play(self, recorded: ObservedObjects) -> None:
        """Set the service's status and its other objects as recorded, with the times of today."""
        service = self._service()
        theirs, ours = recorded.service, service
        names = [(rollout_hash_of(o), o["metadata"]["uid"]) for o in (theirs, ours)]

        def of_today(found: Any) -> Any:
            text = _TIME.sub(self._today, json.dumps(dict(found)))
            for recorded_name, name in zip(*names, strict=True):
                text = text.replace(f'"{recorded_name}"', f'"{name}"')
            return json.loads(text)

        for path, objects in (
            (DEPLOYMENTS, recorded.deployments),
            (REPLICA_SETS, recorded.replica_sets),
            (AUTOSCALERS, recorded.autoscalers),
            (PODS, recorded.pods),
        ):
            for found in objects:
                await self._put_changed(path, of_today(found))
        status = of_today(theirs.get("status", {}))
        status["observedGeneration"] = service["metadata"]["generation"]
        fields = service["metadata"]["managedFields"][:1] + theirs["metadata"]["managedFields"][1:]
        metadata = {**service["metadata"], "managedFields": fields}
        await self._put_changed(SERVICES, {**service, "metadata": metadata, "status": status})

    async def repeat(self) -> None:
        """Send the service once more, with a new resourceVersion and no other change."""
        service = self._service()
        await self.put(SERVICES, {**service, "metadata": {**service["metadata"]}})

    async def _put_changed(self, path: str, found: dict[str, Any]) -> None:
        held = self.collections.setdefault(path, Collection()).objects
        before = held.get(found["metadata"]["uid"], {"metadata": {}})
        version = {"metadata": {"resourceVersion": None}}
        if merged(before, version) != merged(found, version):
            await self.put(path, found)

    def _service(self) -> dict[str, Any]:
        [service] = self.collections[SERVICES].objects.values()
        return service

    async def _apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        written = stored(manifest, manager=FIELD_MANAGER, operation="Apply")
        if self.collections[SERVICES].objects:
            before = self._service()["metadata"]
            assert manifest["metadata"]["resourceVersion"] == before["resourceVersion"]
            written["metadata"]["generation"] = before["generation"] + 1
            written["metadata"]["managedFields"] += before["managedFields"][1:]
            written["status"] = self._service().get("status", {})
        await self.put(SERVICES, written)
        return written
