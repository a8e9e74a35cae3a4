"""A service's address: a port kept for its life, and taken back where somebody else has it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from server.adapters.local.addresses.allotting import PortTaken, listen
from server.adapters.local.addresses.proxying import Proxy, Upstream

RETRY_SECONDS = 1.0


class Address:
    """Listens while `hold` runs; `close` it then.

    `lost_since`: since when another process has the port. `excuse` says why nothing is ready.
    """

    def __init__(self, port: int, excuse: Callable[[], str]) -> None:
        self.port = port
        self.lost_since: datetime | None = None
        self._proxy = Proxy(excuse)

    def point(self, upstream: Upstream | None) -> None:
        """Send the requests that come from now on there."""
        self._proxy.upstream = upstream

    async def hold(self, changed: Callable[[], None]) -> None:
        """Take the port, however long that needs, and answer on it."""
        await self._proxy.start(await self._listening(changed))
        if self.lost_since:
            self.lost_since = None
            changed()

    async def close(self, patience: timedelta) -> None:
        """Let go of the port, once what is in flight has ended or `patience` is over."""
        await self._proxy.close(patience)

    async def _listening(self, changed: Callable[[], None]) -> socket.socket:
        while True:
            try:
                return listen(self.port)
            except PortTaken:
                if self.lost_since is None:
                    self.lost_since = datetime.now(UTC)
                    changed()
                await asyncio.sleep(RETRY_SECONDS)
