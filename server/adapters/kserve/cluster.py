"""KServe on a Kubernetes cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta

from server.adapters.kserve.apply.api_server_errors import list_error, unavailable
from server.adapters.kserve.apply.apply import ServiceApplier
from server.adapters.kserve.apply.delete import ServiceDeleter
from server.adapters.kserve.apply.event_recorder import EventRecorder
from server.adapters.kserve.apply.knative_discovery import KnativeDiscovery
from server.adapters.kserve.apply.kserve_config import ConfigReader
from server.adapters.kserve.apply.retry import ConflictRetry, service_after_write
from server.adapters.kserve.apply.runtime_reader import RuntimeReader
from server.adapters.kserve.apply.service_client import ServiceClient
from server.adapters.kserve.client import ApiServer, NoCredentials
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.revisions.history_reader import HistoryReader
from server.adapters.kserve.revisions.recorder import RevisionRecorder
from server.deadline import Deadline
from server.domain.caller import Caller
from server.domain.errors import ServiceError
from server.domain.revisions.revision import MOST_REVISIONS, ServiceHistory
from server.domain.service.commands import Applied, Delete, Deploy
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import ServiceSink

READ_TIMEOUT = timedelta(seconds=5)


class KServeCluster:
    """The services of `namespaces` (empty: of all); implements `server.ports.Cluster`.

    `kserve_namespace` is where KServe itself is installed. `caller` decides which containers'
    output is shown. `most_revisions` of each service are kept, and four more.
    """

    def __init__(
        self,
        api: ApiServer,
        *,
        namespaces: Sequence[str] = (),
        kserve_namespace: str = "kserve",
        caller: Caller | None = None,
        most_revisions: int = MOST_REVISIONS,
    ) -> None:
        self._feed = StatusFeed(api, namespaces, caller)
        self._recorder = RevisionRecorder(api, namespaces, most_revisions, self._feed)
        self._history = HistoryReader(api, self._feed, self._recorder.pending_of, most_revisions)
        self._client = ServiceClient(api)
        retry = ConflictRetry(self._client, self._feed)
        config = ConfigReader(api, kserve_namespace)
        runtimes = RuntimeReader(api, lambda namespace: self._feed.runtime_cache.of(namespace))
        knative = KnativeDiscovery(api, self._feed)
        self._events = EventRecorder(api)
        self._applier = ServiceApplier(
            self._client, retry, config, runtimes, knative, self._feed, self._events
        )
        self._deleter = ServiceDeleter(self._client, retry, self._feed, self._events)

    async def check_release(self, allowed: timedelta) -> None:
        """Read KServe's release. Raises KServeTooOld.

        Returns without it if the API server does not answer within `allowed`: the feed reports no
        service until the release is known.
        """
        await self._feed.releases.read(allowed.total_seconds())

    async def apply(self, deploy: Deploy) -> Applied:
        """See `server.ports.Cluster`."""
        return await self._applier.apply(deploy)

    async def delete(self, delete: Delete) -> InferenceService:
        """See `server.ports.Cluster`."""
        return await self._deleter.delete(delete)

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """See `server.ports.Cluster`."""
        current = await self._client.get(key, Deadline.after(READ_TIMEOUT))
        if current is None:
            return None
        return service_after_write(self._feed, current)

    async def history(self, key: ServiceKey) -> ServiceHistory | None:
        """See `server.ports.Cluster`."""
        current = await self._client.get(key, Deadline.after(READ_TIMEOUT))
        if current is None:
            return None
        service = service_after_write(self._feed, current)
        return ServiceHistory(service, await self._history.read(current))

    async def follow(self, sink: ServiceSink) -> None:
        """See `server.ports.Cluster`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._events.run(), name="events")
            tasks.create_task(self._recorder.run(), name="revisions")
            await self._feed.follow(sink)

    def position(self, key: ServiceKey) -> str:
        """See `server.ports.Cluster`."""
        return self._feed.position(key)

    def reached(self, key: ServiceKey, position: str) -> bool:
        """See `server.ports.Cluster`."""
        return self._feed.reached(key, position)

    def age(self) -> timedelta | None:
        """See `server.ports.Cluster`."""
        return self._feed.age()

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """See `server.ports.Cluster`."""
        self._feed.on_reachable_change(changed)

    def reachable(self) -> bool:
        """See `server.ports.Cluster`."""
        return self._feed.reachable()

    def namespaces_bound_to(self, names: Iterable[str]) -> Collection[str]:
        """Return the namespaces in which one of these users and groups is bound to a role, as far
        as this server's account may read role bindings."""
        return self._feed.object_cache.bound_namespaces.of(names)

    def refusal(self) -> ServiceError | None:
        """See `server.ports.Cluster`."""
        if isinstance(away := self._feed.away(), NoCredentials):
            return unavailable(away)
        refused = self._feed.refused()
        return list_error(*refused) if refused else None
