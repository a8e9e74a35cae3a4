"""Ports: none is given to two, whoever is about to bind it."""

from __future__ import annotations

import errno
import random
import socket

HOST = "127.0.0.1"


class PortTaken(OSError):
    """Another process has the port."""


class NoPortFree(OSError):
    """Every port that may be given is in use; `strerror` says which those are."""


class Ports:
    """Which ports are ours by now. `given` are those that may be allotted."""

    def __init__(self, given: range) -> None:
        self._given = given
        self._ours: set[int] = set()

    def claim(self, port: int) -> None:
        """Keep a port for whoever has it stored, also one that would not be given any more."""
        self._ours.add(port)

    def allot(self) -> int:
        """A port that nobody listens on, until `release`. Raises NoPortFree, or another OSError."""
        for port in random.sample(self._given, len(self._given)):
            if port not in self._ours and is_free(port):
                self._ours.add(port)
                return port
        first, last = self._given[0], self._given[-1]
        raise NoPortFree(errno.EADDRINUSE, f"no port of {HOST} from {first} to {last} is free")

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
