"""Listening: the addresses that a host and a port stand for, all of them or none."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import grpc

_RESOLVE_SECONDS = 10
# Attempts to find one port that is free at all addresses.
_ATTEMPTS = 20


class AddressUnusable(Exception):
    """The server cannot listen on the address; the message is for operators."""


async def add_port(
    server: grpc.aio.Server,
    address: str,
    setting: str = "MODELSERVICE_LISTEN",
    credentials: Callable[[], grpc.ServerCredentials] | None = None,
) -> int:
    """Have a server that has not started listen on every address of a name, and return the port,
    which port 0 lets the system choose.

    `credentials` makes those of one address; without them traffic is plaintext. Raises
    AddressUnusable, which names the setting, if an address cannot be used.
    """
    host, _, port = address.rpartition(":")
    try:
        found = await _addresses(host.strip("[]"), int(port))
        with ExitStack() as held:
            chosen = _bind_all(found, held)
    except OSError as e:
        raise AddressUnusable(f"{setting}: {address} cannot be used: {e}") from e
    for sockaddr in found:
        literal = _literal(sockaddr, chosen)
        try:
            # For a name with several addresses gRPC succeeds with one of them.
            if credentials:
                server.add_secure_port(literal, credentials())
            else:
                server.add_insecure_port(literal)
        except RuntimeError as e:
            reason = f"{literal} is taken"
            if credentials:
                reason += ", or gRPC cannot use the certificate"
            raise AddressUnusable(f"{setting}: {address} cannot be used: {reason}") from e
    return chosen


_Sockaddr = tuple[Any, ...]


async def _addresses(host: str, port: int) -> Sequence[_Sockaddr]:
    if host == "localhost":
        # Not from /etc/hosts: gRPC's clients try both, and neither is beyond loopback.
        return [("127.0.0.1", port), *([("::1", port, 0, 0)] if _has_ipv6() else [])]
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            # Not by uvloop, which drops the interface of a link-local address.
            found = await asyncio.to_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
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
