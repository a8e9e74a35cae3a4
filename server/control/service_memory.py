"""The memory that services may take: a Deploy that would exceed it is refused before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.control.viewing import View
from server.domain.commands import Deploy
from server.domain.errors import MemoryExceeded
from server.domain.service_size import size_in_memory


class ServiceMemory:
    """Keeps the services in the view within `most` bytes, as far as this server's Deploys add."""

    def __init__(self, view: View, most: int) -> None:
        self._view = view
        self._most = most
        self._promised = 0

    @contextmanager
    def room_for(self, deploy: Deploy) -> Iterator[None]:
        """Keep room for what a Deploy adds for the length of a block, by the end of which the view
        has it. Raises MemoryExceeded where there is none, but for a Deploy that adds nothing."""
        added = self._added(deploy)
        held = self._view.bytes + self._promised
        if added and held + added > self._most:
            raise MemoryExceeded(held, added, self._most)
        self._promised += added
        try:
            yield
        finally:
            self._promised -= added

    def _added(self, deploy: Deploy) -> int:
        if deploy.spec is None:
            return 0
        after = size_in_memory(deploy.spec, deploy.labels, deploy.annotations)
        return max(after - self._view.bytes_of(deploy.key), 0)
