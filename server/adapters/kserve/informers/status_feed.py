"""Feed the changes of services: a set of changed keys, each read as it is when it is pulled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import timedelta

import structlog

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.api_server_probe import ApiServerProbe
from server.adapters.kserve.informers.collections import KNATIVE, Resource, followed
from server.adapters.kserve.informers.emit_rate import EmitRate
from server.adapters.kserve.informers.kserve_release import ReleaseReader
from server.adapters.kserve.informers.log_fetcher import LogFetcher
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.reflector import Reflector
from server.adapters.kserve.informers.service_views import ServiceViews
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.failure_log import LogRequest
from server.change_queue import ChangeQueue
from server.domain.caller import Caller
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import Changed, FeedEvent, Gone, Synced

LOGS_AT_ONCE = 4

log = structlog.get_logger(__name__)


class StatusFeed:
    """Watch the cluster while `feed` is consumed, and derive services from the cache at any time.

    `namespaces`: the namespaces to watch, or none for all. `caller`: decides which container text
    may be shown. `object_cache` has the raw objects, and takes the answers to writes. `releases`
    reads KServe's release; with an unsupported one nothing is reported.
    """

    def __init__(
        self, api: ApiServer, namespaces: Sequence[str], caller: Caller | None = None
    ) -> None:
        self.object_cache = ObjectCache(self._touch, caller)
        self._api = api
        self._namespaces = namespaces
        self._views = ServiceViews(self.object_cache)
        self.releases = ReleaseReader(api, self.object_cache.put_release)
        self._probe = ApiServerProbe(api, answered=self._confirm, returned=self._reconnect)
        self._log_fetcher = LogFetcher(api, self._keep_log)
        self._reflectors: list[Reflector] = []
        self._synced = False
        self._changes = ChangeQueue[ServiceKey]()
        self._rechecks: dict[ServiceKey, asyncio.TimerHandle] = {}
        self._emit_rate = EmitRate()

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time that `reachable` changes."""
        self._probe.reachability.add(changed)

    def reachable(self) -> bool:
        """Return whether the API server answers and accepts our credentials; at first False."""
        return self._probe.reachable

    def away(self) -> Unreachable | Unanswered | None:
        """Return why the API server is not reachable; None if it is, or was not asked yet."""
        return self._probe.away

    def refused(self) -> tuple[int, Resource] | None:
        """Return the HTTP status and the collection whose first list is refused for a while."""
        refused = ((r.refused(), r.resource) for r in self._reflectors)
        return next(((status, resource) for status, resource in refused if status), None)

    def age(self) -> timedelta | None:
        """Return how long ago the cache was known to be current; None before the first sync."""
        if not self._synced:
            return None
        return timedelta(seconds=time.monotonic() - min(r.current_at for r in self._reflectors))

    def derive(self, key: ServiceKey) -> InferenceService | None:
        """Return the service as the cache has it now; None if there is none."""
        view = self._views.derive(key, self._probe.now())
        return view.service if view else None

    def look_for_knative(self) -> None:
        """Look now for Knative's collections, instead of at the next interval."""
        for reflector in self._reflectors:
            if reflector.resource.kind in KNATIVE:
                reflector.reconnect()

    async def feed(self) -> AsyncIterator[FeedEvent]:
        """Yield every service, then Synced, then changes, until closed.

        Outages are survived inside. A bug in a watch raises here.
        """
        self._reflectors = [
            Reflector(self._api, r, self.object_cache) for r in followed(self._namespaces)
        ]
        self._emit_rate = EmitRate()  # this consumer has had no report yet
        self._touch(self.object_cache.keys())
        following = asyncio.create_task(self._follow(), name="watching the cluster")
        following.add_done_callback(lambda _: self._changes.wake())
        try:
            while not self._synced:
                await self._woken(following)
            synced_yielded = False
            while True:
                for key in self._changes.pull():
                    for event in self._events(key):
                        yield event
                    await asyncio.sleep(0)  # a thousand services must not hold up the calls
                if not synced_yielded:
                    synced_yielded = True
                    yield Synced()
                await self._woken(following)
        finally:
            await self._stop(following)

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe.run(), name="probe")
            tasks.create_task(self.releases.run(), name="KServe's release")
            for n in range(LOGS_AT_ONCE):
                tasks.create_task(self._log_fetcher.run(), name=f"log fetcher {n}")
            for reflector in self._reflectors:
                tasks.create_task(reflector.run(), name=f"reflector of {reflector.resource}")
            for reflector in self._reflectors:
                await reflector.synced.wait()
            # A caller may write as soon as all is listed.
            await self._probe.met.wait()
            await self.releases.admitted.wait()
            self._synced = True
            self._changes.wake()

    async def _woken(self, following: asyncio.Task[None]) -> None:
        await self._changes.wait()
        if following.done():
            log.error("watching the cluster ended", exc_info=following.exception())
            following.result()

    async def _stop(self, following: asyncio.Task[None]) -> None:
        following.cancel()
        await asyncio.wait([following])
        self._synced = False
        self._views.stop_recording()
        for timer in self._rechecks.values():
            timer.cancel()
        self._rechecks.clear()

    def _events(self, key: ServiceKey) -> Iterator[FeedEvent]:
        """Yield the events of a key, as it is now."""
        for uid in self.object_cache.pop_deleted(key):
            yield Gone(key, uid)
        view = self._views.report(key, self._probe.now())
        if planned := self._rechecks.pop(key, None):
            planned.cancel()
        if view is None:
            self._emit_rate.forget(key)
            return
        if view.log_wanted:
            self._log_fetcher.want(key, view.log_wanted)
        if wait := self._emit_rate.wait(view.service):
            self._recheck_after(key, wait)
            return
        if view.recheck_at:
            self._recheck_after(key, (view.recheck_at - self._probe.now()).total_seconds())
        yield Changed(view.service)

    def _recheck_after(self, key: ServiceKey, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._rechecks[key] = loop.call_later(max(seconds, 0), self._touch, (key,))

    def _keep_log(self, key: ServiceKey, wanted: LogRequest, log: LogExcerpt) -> None:
        self._views.keep_log(key, wanted, log, self._probe.now())
        self._touch((key,))

    def _touch(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            self._changes.add(key)
            if self._synced:
                self._views.record(key, self._probe.now())

    def _confirm(self, asked_at: float) -> None:
        for reflector in self._reflectors:
            reflector.confirm(asked_at)

    def _reconnect(self) -> None:
        for reflector in self._reflectors:
            reflector.reconnect()
