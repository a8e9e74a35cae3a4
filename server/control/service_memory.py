"""The memory that services may take: a Deploy that would exceed it is refused before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.control.watch_cache import View
from server.domain.errors import MemoryExceeded
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import ServiceKey
from server.domain.service.memory_size import size_in_memory


class ServiceMemory:
    """Keeps the services in the view within `most` bytes, as far as this server's Deploys add."""

    def __init__(self, view: View, most: int) -> None:
        self._view = view
        self._most = most
        # What each service comes to after the Deploys of it that are under way: the largest counts.
        self._promised: dict[ServiceKey, list[int]] = {}

    @contextmanager
    def room_for(self, deploy: Deploy) -> Iterator[None]:
        """Keep room for what a Deploy adds for the length of a block, by the end of which the view
        has it. Raises MemoryExceeded where there is none, but for a Deploy that adds nothing."""
        key, size = deploy.key, _size(deploy)
        held = self._view.bytes + sum(map(self._promised_beyond_view, self._promised))
        added = size - self._view.bytes_of(key) - self._promised_beyond_view(key)
        if added > 0 and held + added > self._most:
            raise MemoryExceeded(held, added, self._most)
        promised = self._promised.setdefault(key, [])
        promised.append(size)
        try:
            yield
        finally:
            promised.remove(size)
            if not promised:
                del self._promised[key]

    def _promised_beyond_view(self, key: ServiceKey) -> int:
        return max(max(self._promised.get(key, (0,))) - self._view.bytes_of(key), 0)


def _size(deploy: Deploy) -> int:
    if deploy.spec is None:
        return 0
    return size_in_memory(deploy.spec, deploy.labels, deploy.annotations)
