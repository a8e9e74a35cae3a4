"""grpc.health.v1: the health of this server, of its cluster and of its registry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc
from modelservice.v1 import model_service_pb2, registry_service_pb2, rollout_service_pb2

from server.api.reflection import REFLECTION_SERVICES
from server.control.watch_cache import WatchCache
from server.ports import Cluster, Registry

SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
REGISTRY_SERVICE = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
ROLLOUT_SERVICE = rollout_service_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
HEALTH_SERVICE = pb.DESCRIPTOR.services_by_name["Health"].full_name
# Every gRPC service of this server. Health knows each by its full name.
GRPC_SERVICES = (SERVICE, ROLLOUT_SERVICE, REGISTRY_SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES)
LIVE = "live"
CLUSTER = "cluster"
REGISTRY = "registry"

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):
    """Serves the statuses that `set` was given last.

    grpcio-health-checking's own servicer holds a lock while it writes to a watcher, so that one
    watcher that does not read keeps NOT_SERVING from all others. Here no watcher waits for another,
    and `end_watches` ends them all, so that they do not use up the grace of a stop.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, pb.HealthCheckResponse.ServingStatus] = {}
        self._stopped: dict[str, pb.HealthCheckResponse.ServingStatus] = {}
        self._changed = asyncio.Event()
        self._ended = False

    def set(self, statuses: Mapping[str, pb.HealthCheckResponse.ServingStatus]) -> None:
        """Serve these statuses, and send their changes to watchers."""
        statuses = {**statuses, **self._stopped}
        if not statuses.items() <= self._statuses.items():
            self._statuses |= statuses
            self._wake()

    def stop_admitting(self) -> None:
        """Serve NOT_SERVING from now on, so that load balancers send callers elsewhere."""
        stopped = ("", SERVICE, ROLLOUT_SERVICE, REGISTRY_SERVICE)
        self._stopped = dict.fromkeys(stopped, NOT_SERVING)
        self.set({})

    def end_watches(self) -> None:
        """End every watch."""
        self._ended = True
        self._wake()

    async def Check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:  # noqa: N802
        """Return the current status; NOT_FOUND for an unknown service."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                "unknown service: List has the services that health knows",
            )
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: pb.HealthListRequest, context: Any) -> pb.HealthListResponse:  # noqa: N802
        """Return the current status of every service that Check knows."""
        return pb.HealthListResponse(
            statuses={
                service: pb.HealthCheckResponse(status=status)
                for service, status in self._statuses.items()
            }
        )

    async def Watch(self, request: pb.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """Stream the current status, then each change; a slow reader gets the latest."""
        sent = None
        while not self._ended:
            changed = self._changed
            status = self._statuses.get(request.service, pb.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != sent:
                await context.write(pb.HealthCheckResponse(status=status))
                sent = status
            else:
                await changed.wait()
        await context.abort(
            grpc.StatusCode.UNAVAILABLE, "this server is stopping: watch again at another one"
        )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def follow_health(
    health: Health, cache: WatchCache, cluster: Cluster, registry: Registry | None
) -> None:
    """Update health at each change, until cancelled.

    The server is ready once it has synced. While the cluster does not answer, reads go on and carry
    their age, so only the service "cluster" is NOT_SERVING then; without its database only the
    registry is.
    """
    changed = asyncio.Event()
    cache.lifecycle.add(changed.set)
    cluster.on_reachable_change(changed.set)
    if registry is not None:
        registry.on_reachable_change(changed.set)
    while True:
        changed.clear()
        health.set(health_statuses(cache, cluster, registry))
        await changed.wait()


def health_statuses(
    cache: WatchCache, cluster: Cluster, registry: Registry | None
) -> dict[str, pb.HealthCheckResponse.ServingStatus]:
    """Return the current status of every health service: the gRPC services by their full names, ""
    for the whole server, "live", "cluster", and "registry" if there is one."""
    ready = cache.synced and not cache.stopping
    statuses = dict.fromkeys((LIVE, HEALTH_SERVICE, *REFLECTION_SERVICES), SERVING)
    statuses |= dict.fromkeys(("", SERVICE, ROLLOUT_SERVICE), _serving(ready))
    statuses[CLUSTER] = _serving(cluster.reachable())
    statuses[REGISTRY_SERVICE] = _serving(ready and registry is not None and registry.reachable())
    if registry is not None:
        statuses[REGISTRY] = _serving(registry.reachable())
    return statuses


def _serving(is_so: bool) -> pb.HealthCheckResponse.ServingStatus:
    return SERVING if is_so else NOT_SERVING
