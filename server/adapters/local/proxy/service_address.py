"""The address of a service: a port that it keeps, with a reverse proxy on it."""

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
class ListenFailure:
    """The error of listening on a port, and when it first came."""

    since: datetime
    error: OSError


class ServiceAddress:
    """Listens on a port from `serve` until `close`.

    `failure` is set while it cannot listen. `unavailable_message` is the text of its 503 while
    no server is ready.
    """

    def __init__(self, port: int, unavailable_message: Callable[[], str]) -> None:
        self.port = port
        self.failure: ListenFailure | None = None
        self._proxy = Proxy(unavailable_message)

    def route_to(self, upstream: Upstream | None) -> None:
        """Send further requests to this server; None: answer them with 503."""
        self._proxy.upstream = upstream

    async def serve(self, changed: Callable[[], None]) -> None:
        """Listen, and try again for as long as that fails. `changed` follows `failure`."""
        await self._proxy.start(await self._listening(changed))
        if self.failure:
            self.failure = None
            changed()

    async def close(self, deadline: Deadline) -> None:
        """Close the port once the requests in flight have ended, or at the deadline."""
        await self._proxy.close(deadline)

    async def _listening(self, changed: Callable[[], None]) -> socket.socket:
        while True:
            try:
                return listen(self.port)
            except OSError as e:
                # It may lack descriptors or memory: one service must not take the others down.
                if self.failure is None:
                    self.failure = ListenFailure(datetime.now(UTC), e)
                    changed()
                await asyncio.sleep(RETRY_SECONDS)
