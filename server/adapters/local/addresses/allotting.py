"""Ports: none is given to two, whoever is about to bind it."""

from __future__ import annotations

import errno
import random
import socket

HOST = "127.0.0.1"
# Below those that systems give to outgoing connections: such a one could hold a service's address
# just when the server starts again.
FIRST, LAST = 20_000, 29_999


class PortTaken(OSError):
    """Another process has the port."""


class NoPortFree(OSError):
    """Every port of the range is in use."""


class Ports:
    """Which ports of the range are ours by now."""

    def __init__(self) -> None:
        self._ours: set[int] = set()

    def claim(self, port: int) -> None:
        """Keep a port for whoever has it stored."""
        self._ours.add(port)

    def allot(self) -> int:
        """A port that nobody listens on, until `release`. Raises NoPortFree, or another OSError."""
        for port in random.sample(range(FIRST, LAST + 1), LAST + 1 - FIRST):
            if port not in self._ours and is_free(port):
                self._ours.add(port)
                return port
        raise NoPortFree(errno.EADDRINUSE, "every port of the range is in use")

    def release(self, port: int) -> None:
        """Let it be given to another."""
        self._ours.discard(port)


def listen(port: int) -> socket.socket:
    """A socket that listens on loopback. Raises PortTaken, or another OSError."""
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(1024)
    except OSError as e:
        listening.close()
        if e.errno == errno.EADDRINUSE:
            raise PortTaken(e.errno, e.strerror) from e
        raise
    listening.setblocking(False)
    return listening


def is_free(port: int) -> bool:
    """Whether nobody listens there. Raises an OSError where that cannot be told."""
    try:
        listen(port).close()
    except PortTaken:
        return False
    return True
