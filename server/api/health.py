"""Standard health: whether this server answers, and whether what it stands on does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc
from modelservice.v1 import model_service_pb2, registry_service_pb2

from server.api.reflection import REFLECTION_SERVICES
from server.control.watch_cache import View
from server.ports import Cluster, Registry

SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
REGISTRY_SERVICE = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
HEALTH_SERVICE = pb.DESCRIPTOR.services_by_name["Health"].full_name
# Every gRPC service of this server. Health knows each by its full name.
GRPC_SERVICES = (SERVICE, REGISTRY_SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES)
LIVE = "live"
CLUSTER = "cluster"
REGISTRY = "registry"

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1, with the statuses that `tell` was given last.

    grpcio-health-checking's own servicer keeps a lock while it writes to a watcher: one watcher
    that does not read would keep everybody from hearing of NOT_SERVING. Here nobody waits for a
    watcher, and `end_watches` lets them go, which otherwise use up a stop's whole grace.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, pb.HealthCheckResponse.ServingStatus] = {}
        self._stopped: dict[str, pb.HealthCheckResponse.ServingStatus] = {}
        self._changed = asyncio.Event()
        self._ended = False

    def tell(self, statuses: Mapping[str, pb.HealthCheckResponse.ServingStatus]) -> None:
        """Answer these from now on, and let watchers know of what changes."""
        statuses = {**statuses, **self._stopped}
        if not statuses.items() <= self._statuses.items():
            self._statuses |= statuses
            self._wake()

    def stop_admitting(self) -> None:
        """Let load balancers send callers elsewhere, whatever `tell` is given from now on."""
        self._stopped = dict.fromkeys(("", SERVICE, REGISTRY_SERVICE), NOT_SERVING)
        self.tell({})

    def end_watches(self) -> None:
        """Let every watch end."""
        self._ended = True
        self._wake()

    async def Check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:  # noqa: N802
        """The status now; NOT_FOUND for a service that is none."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such health service")
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: pb.HealthListRequest, context: Any) -> pb.HealthListResponse:  # noqa: N802
        """The status now of every service that Check knows."""
        return pb.HealthListResponse(
            statuses={
                service: pb.HealthCheckResponse(status=status)
                for service, status in self._statuses.items()
            }
        )

    async def Watch(self, request: pb.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """The status now, then each change; a slow reader gets the latest."""
        told = None
        while not self._ended:
            changed = self._changed
            status = self._statuses.get(request.service, pb.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                await context.write(pb.HealthCheckResponse(status=status))
                told = status
            else:
                await changed.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this server is going down")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def keep_told(
    health: Health, view: View, cluster: Cluster, registry: Registry | None
) -> None:
    """Keep health at what holds, from one change to the next, until cancelled.

    Ready means synced once: while the cluster is away reads go on and say their age, so that only
    the service "cluster" follows it; and all but the registry goes on without its database.
    """
    changed = asyncio.Event()
    view.stages.add(changed.set)
    cluster.on_reachable_change(changed.set)
    if registry is not None:
        registry.on_reachable_change(changed.set)
    while True:
        changed.clear()
        health.tell(present(view, cluster, registry))
        await changed.wait()


def present(
    view: View, cluster: Cluster, registry: Registry | None
) -> dict[str, pb.HealthCheckResponse.ServingStatus]:
    """The status of every health service now. They are the gRPC services by their full names, ""
    for the server as a whole, and "live", "cluster" and "registry", of which a server without a
    registry has no last one."""
    ready = view.synced and not view.stopping
    statuses = dict.fromkeys((LIVE, HEALTH_SERVICE, *REFLECTION_SERVICES), SERVING)
    statuses |= dict.fromkeys(("", SERVICE), _serving(ready))
    statuses[CLUSTER] = _serving(cluster.reachable())
    statuses[REGISTRY_SERVICE] = _serving(ready and registry is not None and registry.reachable())
    if registry is not None:
        statuses[REGISTRY] = _serving(registry.reachable())
    return statuses


def _serving(is_so: bool) -> pb.HealthCheckResponse.ServingStatus:
    return SERVING if is_so else NOT_SERVING
