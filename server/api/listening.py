"""The gRPC server itself: its limits, and the services on it."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from modelservice.v1 import (
    model_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)

from server.api.calls import Calls
from server.api.health import SERVICE, Health
from server.api.registry_servicer import RegistryService
from server.api.servicer import ModelService

_MINUTE_MS = 60_000
_OPTIONS = (
    # By default a second server on the port would get every other connection, silently.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 2**20),
    ("grpc.max_metadata_size", 8 * 2**10),
    ("grpc.max_concurrent_streams", 1000),
    # By default a storm of reconnecting watches is dropped.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # A dead client is noticed; without the ping timeout that takes a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Connections are made anew, so that callers spread over replicas that came later.
    ("grpc.max_connection_age_ms", 30 * _MINUTE_MS),
    ("grpc.max_connection_age_grace_ms", 30_000),
)


class AddressUnusable(Exception):
    """The address cannot be listened on; the message is for operators."""


def grpc_server(
    models: ModelService, registry: RegistryService, health: Health, calls: Calls
) -> grpc.aio.Server:
    """A server with every service registered, that does not listen yet."""
    server = grpc.aio.server(interceptors=[calls], options=_OPTIONS)
    # The stubs know of no servicer that answers in bytes; `calls` does.
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)  # type: ignore[arg-type]
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    registry_service = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection(
        (SERVICE, registry_service, health_service, reflection.SERVICE_NAME), server
    )
    return server


async def listen(server: grpc.aio.Server, address: str) -> int:
    """Take calls at an address from now on; the port, chosen where 0 is asked for."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as e:
        raise AddressUnusable(
            f"MODELSERVICE_LISTEN: {address} cannot be listened on; is another server there?"
        ) from e
    await server.start()
    return port
