"""What a cluster in memory holds; several replicas may share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.preconditions import Stored


class Store:
    """Services by key, and who is told of changes.

    Every namespace exists but those in `missing_namespaces`.
    """

    def __init__(self) -> None:
        self.missing_namespaces: set[str] = set()
        self.listeners: list[Callable[[ServiceKey], None]] = []
        self._services: dict[ServiceKey, Stored] = {}

    def __iter__(self) -> Iterator[ServiceKey]:
        return iter(tuple(self._services))

    def get(self, key: ServiceKey) -> Stored | None:
        """What is stored under the key."""
        return self._services.get(key)

    def service(self, key: ServiceKey) -> InferenceService | None:
        """The service under the key."""
        stored = self._services.get(key)
        return stored.service if stored else None

    def put(self, stored: Stored) -> None:
        """Store, and tell everybody."""
        self._services[stored.service.key] = stored
        self._tell(stored.service.key)

    def change(self, service: InferenceService) -> None:
        """Replace a service and keep what rides on it."""
        self.put(replace(self._services[service.key], service=service))

    def remove(self, key: ServiceKey) -> None:
        """Forget a service, and tell everybody."""
        del self._services[key]
        self._tell(key)

    def _tell(self, key: ServiceKey) -> None:
        for listener in self.listeners:
            listener(key)
