"""The gRPC servers: their channel options and their services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import (
    errors_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    rollout_service_pb2,
    rollout_service_pb2_grpc,
)

from server.api.call_limits import CallLimits
from server.api.health import GRPC_SERVICES, Health
from server.api.interceptor import CallInterceptor, InterceptedServer
from server.api.model_service import ModelService
from server.api.reflection import Reflection
from server.api.registry_service import RegistryService
from server.api.rollout_service import RolloutService
from server.api.transport.listening import add_port

log = structlog.get_logger(__name__)

_MINUTE_MS = 60_000
# Watches of health have been ended by then.
_HEALTH_STOP_SECONDS = 1.0
# For each connection; HTTP/2 lets further calls wait at their client.
_STREAMS = 1000
_OPTIONS = (
    # By default a second server on the port would get every other connection, silently.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 2**20),
    # For tokens: those of OIDC, with groups, take some KiB.
    ("grpc.max_metadata_size", 16 * 2**10),
    ("grpc.max_concurrent_streams", _STREAMS),
    # By default an ended stream counts until it is freed here, and a client that opens the next one
    # at once gets a RST_STREAM without a status.
    ("grpc.http2.max_deallocating_streams", _STREAMS),
    # By default a storm of reconnecting watches is dropped.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # Detects dead clients; without the ping timeout that takes a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Any number of pings: gRPC takes up to 2 us for each ping beyond the strikes of a connection,
    # which closes only later, so that a flood of a million holds all other calls for seconds. It
    # answers one in 0.3 us, and reads no more where its answers are not taken.
    ("grpc.http2.max_ping_strikes", 0),
    # Clients reconnect, and so spread over replicas that started later.
    ("grpc.max_connection_age_ms", 30 * _MINUTE_MS),
    ("grpc.max_connection_age_grace_ms", 30_000),
    # From the connection to its first bytes of HTTP/2, so with TLS between them. By default a
    # connection that says nothing takes memory for two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
)
# For probes, which make a connection for each call.
_HEALTH_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 * 2**10),
    ("grpc.max_metadata_size", 8 * 2**10),
    ("grpc.max_concurrent_streams", 10),
    ("grpc.max_allowed_incoming_connections", 100),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 5 * _MINUTE_MS),
    ("grpc.max_connection_age_grace_ms", 1_000),
)
# Served by reflection: the services, and the details of their errors.
_PUBLIC_FILES = (
    model_service_pb2.DESCRIPTOR,
    rollout_service_pb2.DESCRIPTOR,
    registry_service_pb2.DESCRIPTOR,
    errors_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
    status_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
)


def grpc_server(
    models: ModelService,
    rollouts: RolloutService,
    registry: RegistryService,
    health: Health,
    interceptor: CallInterceptor,
    limits: CallLimits,
    *,
    encrypted: bool,
) -> grpc.aio.Server:
    """Return a server with every service registered, which does not listen yet."""
    # gRPC closes those beyond, and counts those that have not finished their handshake.
    connections = ("grpc.max_allowed_incoming_connections", most_connections(limits, encrypted))
    server = grpc.aio.server(options=(*_OPTIONS, connections))
    intercepted: Any = InterceptedServer(server, interceptor)
    # The interceptor passes them a Call in place of gRPC's context, and takes responses in bytes.
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, intercepted)  # type: ignore[arg-type]
    rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server(rollouts, intercepted)  # type: ignore[arg-type]
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, intercepted)  # type: ignore[arg-type]
    health_pb2_grpc.add_HealthServicer_to_server(health, intercepted)
    Reflection(GRPC_SERVICES, _PUBLIC_FILES).add_to(intercepted)
    return server


def most_connections(limits: CallLimits, encrypted: bool) -> int:
    """Return the maximum of connections: one for each call that may be open.

    With TLS a connection takes three times the memory, and up to 80 KiB in its handshake: half.
    """
    return (limits.calls + limits.streams) // (2 if encrypted else 1)


@asynccontextmanager
async def health_listener(
    health: Health, interceptor: CallInterceptor, address: str
) -> AsyncIterator[None]:
    """Serve grpc.health.v1 and nothing else at an address, in plaintext, until the block ends.

    Kubelet's gRPC probes do not speak TLS. Raises AddressUnusable.
    """
    server = grpc.aio.server(options=_HEALTH_OPTIONS)
    intercepted: Any = InterceptedServer(server, interceptor)
    health_pb2_grpc.add_HealthServicer_to_server(health, intercepted)
    port = await add_port(server, address, "MODELSERVICE_HEALTH_LISTEN")
    await server.start()
    log.info("listening for probes", address=f"{address.rpartition(':')[0]}:{port}")
    try:
        yield
    finally:
        await server.stop(_HEALTH_STOP_SECONDS)
