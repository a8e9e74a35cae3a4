"""The gRPC server: its channel options, its services, and the addresses that it listens on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import (
    errors_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)

from server.api.health import GRPC_SERVICES, Health
from server.api.interceptor import CallInterceptor
from server.api.model_service import ModelService
from server.api.reflection import Reflection
from server.api.registry_service import RegistryService

_MINUTE_MS = 60_000
_RESOLVE_SECONDS = 10
# Attempts to find one port that is free at all addresses.
_ATTEMPTS = 20
# For each connection; HTTP/2 lets further calls wait at their client.
_STREAMS = 1000
_OPTIONS = (
    # By default a second server on the port would get every other connection, silently.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 2**20),
    ("grpc.max_metadata_size", 8 * 2**10),
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
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients reconnect, and so spread over replicas that started later.
    ("grpc.max_connection_age_ms", 30 * _MINUTE_MS),
    ("grpc.max_connection_age_grace_ms", 30_000),
)
# Served by reflection: the services, and the details of their errors.
_PUBLIC_FILES = (
    model_service_pb2.DESCRIPTOR,
    registry_service_pb2.DESCRIPTOR,
    errors_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
    status_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
)


class AddressUnusable(Exception):
    """The server cannot listen on the address; the message is for operators."""


def grpc_server(
    models: ModelService, registry: RegistryService, health: Health, interceptor: CallInterceptor
) -> grpc.aio.Server:
    """Return a server with every service registered, which does not listen yet."""
    server = grpc.aio.server(interceptors=[interceptor], options=_OPTIONS)
    # The interceptor passes them a Call in place of gRPC's context, and takes responses in bytes.
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)  # type: ignore[arg-type]
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)  # type: ignore[arg-type]
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    Reflection(GRPC_SERVICES, _PUBLIC_FILES).add_to(server)
    return server


async def listen(server: grpc.aio.Server, address: str) -> int:
    """Listen on every address of a name, and return the port, which port 0 lets the system choose.

    Raises AddressUnusable, and listens on none, if one of them cannot be used.
    """
    host, _, port = address.rpartition(":")
    try:
        found = await _addresses(host.strip("[]"), int(port))
        with ExitStack() as held:
            chosen = _bind_all(found, held)
    except OSError as e:
        raise AddressUnusable(f"MODELSERVICE_LISTEN: {address} cannot be used: {e}") from e
    for sockaddr in found:
        literal = _literal(sockaddr, chosen)
        try:
            # For a name with several addresses gRPC succeeds with one of them.
            server.add_insecure_port(literal)
        except RuntimeError as e:
            raise AddressUnusable(
                f"MODELSERVICE_LISTEN: {address} cannot be used: {literal} is taken"
            ) from e
    await server.start()
    return chosen


_Sockaddr = tuple[Any, ...]


async def _addresses(host: str, port: int) -> Sequence[_Sockaddr]:
    if host == "localhost":
        # Not from /etc/hosts: gRPC's clients try both, and neither is beyond loopback.
        return [("127.0.0.1", port), *([("::1", port, 0, 0)] if _has_ipv6() else [])]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (TimeoutError, UnicodeError, socket.gaierror) as e:
        raise OSError("the name has no address") from e
    return list(dict.fromkeys(sockaddr for *_, sockaddr in found))


def _bind_all(addresses: Sequence[_Sockaddr], held: ExitStack) -> int:
    """Bind every address to one port until the stack is closed, and return the port.

    gRPC reports neither the address that failed nor why, and falls back from [::] to 0.0.0.0.
    """
    port = int(addresses[0][1])
    attempts = 1 if port else _ATTEMPTS
    for attempt in range(1, attempts + 1):
        with ExitStack() as now:
            chosen = port
            try:
                for sockaddr in addresses:
                    chosen = _bound(sockaddr, chosen, now)
            except OSError as e:
                if attempt == attempts or e.errno != errno.EADDRINUSE:
                    raise OSError(f"{_literal(sockaddr, chosen)} {_why(e)}") from e
                continue
            held.push(now.pop_all())
            return chosen
    raise AssertionError("the last attempt raises")


def _bound(sockaddr: _Sockaddr, port: int, held: ExitStack) -> int:
    bound = held.enter_context(socket.socket(_family(sockaddr), socket.SOCK_STREAM))
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if bound.family == socket.AF_INET6:
        # As gRPC does: [::] covers IPv4 too.
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind((sockaddr[0], port, *sockaddr[2:]))
    chosen: int = bound.getsockname()[1]
    return chosen


def _why(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "is taken: stop the other server, or choose another port"
        case errno.EADDRNOTAVAIL:
            return "is not an address of this machine"
    return f"is refused by the system: {os.strerror(error.errno or 0)}"


def _has_ipv6() -> bool:
    with ExitStack() as held:
        try:
            _bound(("::1", 0, 0, 0), 0, held)
        except OSError:
            return False
    return True


def _family(sockaddr: _Sockaddr) -> socket.AddressFamily:
    return socket.AF_INET6 if len(sockaddr) == 4 else socket.AF_INET


def _literal(sockaddr: _Sockaddr, port: int) -> str:
    host, _ = socket.getnameinfo(sockaddr, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
