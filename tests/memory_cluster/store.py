"""What a cluster in memory holds; several replicas may share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from server.change_queue import ChangeQueue
from server.domain.service.deploy_plan import current_revisions
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.preconditions import Stored


class Store:
    """Services by key, and the feeds to queue changes for.

    Every namespace exists but those in `missing_namespaces`.
    """

    def __init__(self) -> None:
        self.missing_namespaces: set[str] = set()
        # The annotation that stops a service, where another field manager has set it.
        self.stops_of_others: dict[ServiceKey, str] = {}
        self.feeds: list[ChangeQueue[ServiceKey]] = []
        self._services: dict[ServiceKey, Stored] = {}
        self._revisions: dict[ServiceKey, int] = {}

    def __iter__(self) -> Iterator[ServiceKey]:
        return iter(list(self._services))

    def get(self, key: ServiceKey) -> Stored | None:
        """What is stored under the key."""
        return self._services.get(key)

    def service(self, key: ServiceKey) -> InferenceService | None:
        """The service under the key."""
        stored = self._services.get(key)
        return stored.service if stored else None

    def revision(self, key: ServiceKey) -> int:
        """The number of changes of the service, its deletions included."""
        return self._revisions.get(key, 0)

    def deletions(self) -> dict[ServiceKey, int]:
        """The revisions of the services that are gone."""
        return {key: n for key, n in self._revisions.items() if key not in self._services}

    def put(self, stored: Stored) -> None:
        """Store, and queue the change for every feed."""
        key = stored.service.key
        self._services[key] = stored
        self._changed(key)

    def change(self, service: InferenceService) -> None:
        """Replace a service and keep what rides on it. Its revision gets the status's outcome."""
        changed = replace(self._services[service.key], service=service)
        self.put(replace(changed, revisions=current_revisions(changed)))

    def remove(self, key: ServiceKey) -> None:
        """Remove a service, and queue the change for every feed."""
        del self._services[key]
        self.stops_of_others.pop(key, None)
        self._changed(key)

    def _changed(self, key: ServiceKey) -> None:
        self._revisions[key] = self.revision(key) + 1
        for changes in self.feeds:
            changes.add(key)
