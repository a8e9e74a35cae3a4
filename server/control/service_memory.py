"""The memory limit of services: a Deploy that would exceed it is refused before it is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.control.watch_cache import WatchCache
from server.domain.errors import MemoryExceeded
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import ServiceKey
from server.domain.service.memory_size import size_in_memory


class ServiceMemory:
    """Keeps this server's Deploys from growing the services in the cache beyond `limit` bytes."""

    def __init__(self, cache: WatchCache, limit: int) -> None:
        self._cache = cache
        self._limit = limit
        # The size of each service after its Deploys in progress, of which the largest counts.
        self._reserved: dict[ServiceKey, list[int]] = {}

    @contextmanager
    def reserve(self, deploy: Deploy) -> Iterator[None]:
        """Reserve memory for a Deploy, for the length of a block that carries it out.

        Raises MemoryExceeded if it needs more memory than is left.
        """
        key, size = deploy.key, _size(deploy)
        used = self._cache.bytes + sum(map(self._reserved_beyond_cache, self._reserved))
        added = size - self._cache.bytes_of(key) - self._reserved_beyond_cache(key)
        if added > 0 and used + added > self._limit:
            raise MemoryExceeded(used, added, self._limit)
        reserved = self._reserved.setdefault(key, [])
        reserved.append(size)
        try:
            yield
        finally:
            reserved.remove(size)
            if not reserved:
                del self._reserved[key]

    def _reserved_beyond_cache(self, key: ServiceKey) -> int:
        return max(max(self._reserved.get(key, (0,))) - self._cache.bytes_of(key), 0)


def _size(deploy: Deploy) -> int:
    if deploy.spec is None:
        return 0
    return size_in_memory(deploy.spec, deploy.labels, deploy.annotations)
