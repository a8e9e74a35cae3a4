"""The registry port of a server without a registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NoReturn

from server.domain.registry.registry_errors import RegistryDisabled
from server.ports import RegistryReading, RegistryWriting


class NoRegistry:
    """Raises RegistryDisabled for each read and write; implements `server.ports.Registry`."""

    async def read(self, work: Callable[[RegistryReading], Awaitable[object]]) -> NoReturn:
        """Raise RegistryDisabled."""
        raise _disabled()

    async def write(self, work: Callable[[RegistryWriting], Awaitable[object]]) -> NoReturn:
        """Raise RegistryDisabled."""
        raise _disabled()

    async def lead(self, holder: str, term: timedelta) -> NoReturn:
        """Raise RegistryDisabled."""
        raise _disabled()

    async def resign(self, holder: str) -> NoReturn:
        """Raise RegistryDisabled."""
        raise _disabled()

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """See `server.ports.Registry`."""

    def reachable(self) -> bool:
        """Return False."""
        return False


def _disabled() -> RegistryDisabled:
    return RegistryDisabled(
        "this server has no registry: it runs on a cluster without a database; ask its operator to"
        " set MODELSERVICE_DATABASE_URL"
    )
