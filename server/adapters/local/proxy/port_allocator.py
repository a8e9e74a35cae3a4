"""Ports of loopback. None is given out twice, even before it is bound."""

from __future__ import annotations

import errno
import random
import socket

HOST = "127.0.0.1"


class PortTaken(OSError):
    """Another process has the port."""


class NoPortFree(OSError):
    """Every port of the range is in use; `strerror` names the range."""


class PortAllocator:
    """Gives out the ports of a range."""

    def __init__(self, ports: range) -> None:
        self._ports = ports
        self._reserved: set[int] = set()

    def reserve(self, port: int) -> None:
        """Keep a stored port, which may be outside of the range."""
        self._reserved.add(port)

    def allocate(self) -> int:
        """Reserve a port that nothing listens on. Raises NoPortFree, or another OSError."""
        for port in random.sample(self._ports, len(self._ports)):
            if port not in self._reserved and is_free(port):
                self._reserved.add(port)
                return port
        first, last = self._ports[0], self._ports[-1]
        raise NoPortFree(errno.EADDRINUSE, f"no port of {HOST} from {first} to {last} is free")

    def release(self, port: int) -> None:
        """Let the port be given out again."""
        self._reserved.discard(port)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback. Raises PortTaken, or another OSError."""
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
    """Report whether nothing listens on a port. Raises OSError where that cannot be found out."""
    try:
        listen(port).close()
    except PortTaken:
        return False
    return True
