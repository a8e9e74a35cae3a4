"""Ports of 127.0.0.1 for what tests start: each process of tests and each lab has its own.

What a test kills finds its ports again when it is back, whatever else runs on this machine.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from functools import cache

from server.adapters.local.proxy.port_allocator import PortTaken, is_free, listen

PORTS_PER_BLOCK = 256
# Below the ports that systems usually give to outgoing connections.
BASES = range(20_000, 30_000 - PORTS_PER_BLOCK, PORTS_PER_BLOCK)


class PortBlock:
    """Ports that no other block has, and on which nobody listened when it was taken.

    The port before them is held until `close`, which keeps others away from the whole block, also
    other processes; the system lets go of it when this one dies.
    """

    def __init__(self, bases: Sequence[int] = BASES) -> None:
        held = next(filter(None, map(_held, random.sample(bases, len(bases)))), None)
        if held is None:
            raise RuntimeError("no block of free ports is left on this machine")
        self._held = held
        self.base = held.getsockname()[1]
        # The local cluster takes any of these, so `next` gives out others.
        self.ports = range(self.base + PORTS_PER_BLOCK // 2, self.base + PORTS_PER_BLOCK)
        self._unused = iter(range(self.base + 1, self.ports.start))

    @property
    def setting(self) -> str:
        """The value of MODELSERVICE_SERVING_PORTS for a server on these ports."""
        return f"{self.ports[0]}-{self.ports[-1]}"

    def next(self) -> int:
        """A port not given out before."""
        return next(self._unused)

    def close(self) -> None:
        """Let others have the block."""
        self._held.close()


@cache
def own_block() -> PortBlock:
    """The block of this process, which it keeps as long as it lives."""
    return PortBlock()


def _held(base: int) -> socket.socket | None:
    try:
        held = listen(base)
    except PortTaken:
        return None
    if all(map(is_free, _ports(base))):
        return held
    held.close()
    return None


def _ports(base: int) -> range:
    return range(base + 1, base + PORTS_PER_BLOCK)
