"""The registry of a server that has none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NoReturn

from server.domain.registry.registry_errors import RegistryDisabled
from server.ports import RegistryReading, RegistryWriting


class NoRegistry:
    """Refuses everything with RegistryDisabled."""

    async def read(self, work: Callable[[RegistryReading], Awaitable[object]]) -> NoReturn:
        """Nothing to read."""
        raise _disabled()

    async def write(self, work: Callable[[RegistryWriting], Awaitable[object]]) -> NoReturn:
        """Nowhere to write."""
        raise _disabled()

    async def lead(self, holder: str, term: timedelta) -> NoReturn:
        """Nothing to lead."""
        raise _disabled()

    async def resign(self, holder: str) -> NoReturn:
        """Nothing to leave."""
        raise _disabled()

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """See `server.ports.Registry`."""

    def reachable(self) -> bool:
        """Never."""
        return False


def _disabled() -> RegistryDisabled:
    return RegistryDisabled(
        "this server has no registry: it runs on a cluster and was given no database; ask who runs"
        " this server to name one (MODELSERVICE_DATABASE_URL)"
    )
