"""Report services to a sink: each is derived from the cache when it is reported."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Protocol

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.api_server_probe import ApiServerProbe
from server.adapters.kserve.informers.collections import KNATIVE, Kind, Resource, followed
from server.adapters.kserve.informers.emit_rate import EmitRate
from server.adapters.kserve.informers.kserve_release import ReleaseReader
from server.adapters.kserve.informers.log_fetcher import LogFetcher
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.progress import decode_position, encode_position
from server.adapters.kserve.informers.reflector import Reflector
from server.adapters.kserve.informers.runtime_cache import RuntimeCache
from server.adapters.kserve.informers.service_views import ServiceViews
from server.adapters.kserve.objects import Object, generation_of, key_of
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.failure_log import LogRequest
from server.change_queue import ChangeQueue
from server.domain.caller import Caller
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import ServiceSink

LOGS_AT_ONCE = 4
# Seconds of reports before other tasks have the event loop.
REPORT_AT_ONCE = 0.002


class RolloutObserver(Protocol):
    """Takes the rollouts of services, each when it is first seen. No method may await."""

    def synced(self) -> None:
        """Take it that all services are cached; new generations are reported from now on."""
        ...

    def generation_seen(self, former: Object | None, obj: Object) -> None:
        """Take an InferenceService with another uid or generation than the former one, if any."""
        ...

    def written(self, obj: Object) -> None:
        """Take an InferenceService that this server wrote or read just now."""
        ...

    def reported(self, service: InferenceService) -> None:
        """Take a service as it is reported."""
        ...

    def forget(self, key: ServiceKey) -> None:
        """Forget a deleted service."""
        ...


class StatusFeed:
    """Watch the cluster while it `follow`s, and derive services from the cache at any time.

    `namespaces`: the namespaces to watch, or none for all. `caller`: decides which container text
    may be shown. `object_cache` has the raw objects, `runtime_cache` the serving runtimes.
    `releases` reads KServe's release; with an unsupported one nothing is reported.
    """

    def __init__(
        self, api: ApiServer, namespaces: Sequence[str], caller: Caller | None = None
    ) -> None:
        self.object_cache = ObjectCache(self._touch, caller, self._note_generation)
        self.runtime_cache = RuntimeCache(api, namespaces)
        self._api = api
        self._namespaces = namespaces
        self._views = ServiceViews(self.object_cache)
        self.releases = ReleaseReader(api, self.object_cache.put_release)
        self._probe = ApiServerProbe(api, answered=self._confirm, returned=self._reconnect)
        self._log_fetcher = LogFetcher(api, self._keep_log)
        self._reflectors: list[Reflector] = []
        # The sink that is followed, once the cache is synced.
        self._sink: ServiceSink | None = None
        self._changes = ChangeQueue[ServiceKey]()
        self._rechecks: dict[ServiceKey, asyncio.TimerHandle] = {}
        # The services whose present state is reported later.
        self._delayed: set[ServiceKey] = set()
        self._emit_rate = EmitRate()
        self._rollouts: RolloutObserver | None = None

    def observe_rollouts(self, observer: RolloutObserver) -> None:
        """Report the rollouts of all services to an observer."""
        self._rollouts = observer

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
        if self._sink is None:
            return None
        return timedelta(seconds=time.monotonic() - min(r.current_at for r in self._reflectors))

    def position(self, key: ServiceKey) -> str:
        """See `server.ports.Cluster`."""
        newest = {r.resource.short_name: r.progress.newest for r in self._reflectors_of(key)}
        services = Kind.SERVICES.value[2]
        # The answer to a write may be ahead of the watch.
        newest[services] = max(newest.get(services, 0), self.object_cache.version_at(key))
        return encode_position(newest)

    def reached(self, key: ServiceKey, position: str) -> bool:
        """See `server.ports.Cluster`."""
        if self._sink is None or key in self._changes or key in self._delayed:
            return False
        # A collection that is absent here, or that only another release follows, sends nothing.
        read_to = {
            r.resource.short_name: r.progress.read_to
            for r in self._reflectors_of(key)
            if not r.progress.absent
        }
        return all(read_to.get(name, v) >= v for name, v in decode_position(position))

    def derive(self, key: ServiceKey) -> InferenceService | None:
        """Return the service as the cache has it now; None if there is none."""
        view = self._views.derive(key, self._probe.now())
        return view.service if view else None

    def put_written(self, written: Object) -> InferenceService | None:
        """Store the API server's answer to a write, report the service at once, and return it as it
        is now. None if there is none."""
        key = key_of(written)
        self.object_cache.put_written(key, written)
        if self._rollouts:
            held = self.object_cache.service(key)
            newest = held is not None and generation_of(held) == generation_of(written)
            self._rollouts.written(held if held and newest else written)
        return self._report(key, at_once=True) if self._sink else self.derive(key)

    def put_deleted(self, deleted: Object) -> None:
        """Drop an InferenceService that the API server has deleted, and report that at once."""
        self.object_cache.put_deleted(deleted)
        if self._sink:
            self._report(key_of(deleted), at_once=True)

    def look_for_knative(self) -> None:
        """Look now for Knative's collections, instead of at the next interval."""
        for reflector in self._reflectors:
            if reflector.resource.kind in KNATIVE:
                reflector.reconnect()

    async def follow(self, sink: ServiceSink) -> None:
        """See `server.ports.Cluster`. Outages are survived inside; a bug in a watch raises here."""
        self._reflectors = [
            Reflector(self._api, r, self.object_cache) for r in followed(self._namespaces)
        ]
        self.runtime_cache = RuntimeCache(self._api, self._namespaces)
        self._emit_rate = EmitRate()  # this sink has had no report yet
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._probe.run(), name="probe")
                tasks.create_task(self.releases.run(), name="KServe's release")
                for n in range(LOGS_AT_ONCE):
                    tasks.create_task(self._log_fetcher.run(), name=f"log fetcher {n}")
                for reflector in (*self._reflectors, *self.runtime_cache.reflectors):
                    tasks.create_task(reflector.run(), name=f"reflector of {reflector.resource}")
                for reflector in self._reflectors:
                    await reflector.synced.wait()
                # A caller may write as soon as all is listed.
                await self._probe.met.wait()
                await self.releases.admitted.wait()
                self._sink = sink
                self._changes = ChangeQueue(self.object_cache.keys())
                await self._report_changes()
                sink.mark_synced()
                if self._rollouts:
                    self._rollouts.synced()
                while True:
                    await self._changes.wait()
                    await self._report_changes()
        finally:
            self._sink = None
            self._views.stop_recording()
            for timer in self._rechecks.values():
                timer.cancel()
            self._rechecks.clear()
            self._delayed.clear()

    async def _report_changes(self) -> None:
        began = time.monotonic()
        for key in self._changes.pull():
            self._report(key)
            # A thousand services must not hold up the calls. Each round of the loop takes the time
            # of a tenth of a service.
            if time.monotonic() - began > REPORT_AT_ONCE:
                await asyncio.sleep(0)
                began = time.monotonic()

    def _report(self, key: ServiceKey, *, at_once: bool = False) -> InferenceService | None:
        """Put a service into the sink as it is now, and return it. Unless `at_once`, a repeated
        report may be delayed."""
        assert self._sink
        self._changes.discard(key)
        self._delayed.discard(key)
        view = self._views.derive(key, self._probe.now())
        if planned := self._rechecks.pop(key, None):
            planned.cancel()
        if view is None:
            # An object that cannot be read keeps its last report.
            if self._emit_rate.uid_at(key) != self.object_cache.uid_at(key):
                self._emit_rate.forget(key)
                self._sink.remove(key)
                if self._rollouts:
                    self._rollouts.forget(key)
            return None
        if self._rollouts:
            self._rollouts.reported(view.service)
        if view.log_wanted:
            self._log_fetcher.want(key, view.log_wanted)
        if wait := self._emit_rate.wait(view.service, at_once=at_once):
            self._recheck_after(key, wait)
            self._delayed.add(key)
            return view.service
        if view.recheck_at:
            self._recheck_after(key, (view.recheck_at - self._probe.now()).total_seconds())
        self._sink.put(view.service)
        return view.service

    def _recheck_after(self, key: ServiceKey, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._rechecks[key] = loop.call_later(max(seconds, 0), self._touch, (key,))

    def _keep_log(self, key: ServiceKey, wanted: LogRequest, log: LogExcerpt) -> None:
        self._views.keep_log(key, wanted, log, self._probe.now())
        self._touch((key,))

    def _note_generation(self, former: Object | None, service: Object) -> None:
        if self._rollouts and self._sink:
            self._rollouts.generation_seen(former, service)

    def _touch(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            if self._sink:
                self._changes.add(key)
                self._views.record(key, self._probe.now())
            # Once all is synced, every service is reported.
            elif not self.object_cache.uid_at(key):
                self._views.forget(key)

    def _reflectors_of(self, key: ServiceKey) -> Iterator[Reflector]:
        return (r for r in self._reflectors if r.resource.namespace in ("", key.namespace))

    def _confirm(self, asked_at: float) -> None:
        for reflector in (*self._reflectors, *self.runtime_cache.reflectors):
            reflector.confirm(asked_at)

    def _reconnect(self) -> None:
        for reflector in (*self._reflectors, *self.runtime_cache.reflectors):
            reflector.reconnect()
