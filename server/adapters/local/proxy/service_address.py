"""A service's address: a port kept for its life, and taken back where somebody else has it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from server.adapters.local.proxy.port_allocator import listen
from server.adapters.local.proxy.reverse_proxy import Proxy, Upstream
from server.deadline import Deadline

RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Lost:
    """An address that is not listened on, since when and why."""

    since: datetime
    why: OSError


class Address:
    """Listens while `hold` runs; `close` it then.

    `lost`: why not, while it cannot. `excuse` says why nothing is ready.
    """

    def __init__(self, port: int, excuse: Callable[[], str]) -> None:
        self.port = port
        self.lost: Lost | None = None
        self._proxy = Proxy(excuse)

    def point(self, upstream: Upstream | None) -> None:
        """Send the requests that come from now on there."""
        self._proxy.upstream = upstream

    async def hold(self, changed: Callable[[], None]) -> None:
        """Take the port, however long that needs, and answer on it."""
        await self._proxy.start(await self._listening(changed))
        if self.lost:
            self.lost = None
            changed()

    async def close(self, deadline: Deadline) -> None:
        """Let go of the port once the requests in flight have ended, or at the deadline."""
        await self._proxy.close(deadline)

    async def _listening(self, changed: Callable[[], None]) -> socket.socket:
        while True:
            try:
                return listen(self.port)
            except OSError as e:
                # Also without descriptors or memory: other services must not go down with this one.
                if self.lost is None:
                    self.lost = Lost(datetime.now(UTC), e)
                    changed()
                await asyncio.sleep(RETRY_SECONDS)
