"""The feed of statuses: what changed, as a set of keys, each told as it is when it is pulled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import timedelta

import structlog

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.api_server_probe import Probe
from server.adapters.kserve.informers.collections import KNATIVE, Resource, followed
from server.adapters.kserve.informers.emit_rate import Pacing
from server.adapters.kserve.informers.kserve_release import ReleaseReader
from server.adapters.kserve.informers.log_fetcher import LogFetching
from server.adapters.kserve.informers.object_cache import Mirror
from server.adapters.kserve.informers.reflector import Reflector
from server.adapters.kserve.informers.service_views import Deriving
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.failure_log import LogRequest
from server.change_queue import ChangeQueue
from server.domain.caller import Caller
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import Changed, FeedEvent, Gone, Synced

LOGS_AT_ONCE = 4

log = structlog.get_logger(__name__)


class StatusFeed:
    """Follows the cluster while `feed` is consumed; answers from what it holds at any time.

    `namespaces`: those to follow, empty for all. `caller`: who is shown what containers write.
    `mirror` has the raw objects; the answers to writes are put into it. `releases` knows KServe's
    release; with one that cannot be worked with nothing is reported.
    """

    def __init__(
        self, api: ApiServer, namespaces: Sequence[str], caller: Caller | None = None
    ) -> None:
        self.mirror = Mirror(self._touch, caller)
        self._api = api
        self._namespaces = namespaces
        self._deriving = Deriving(self.mirror)
        self.releases = ReleaseReader(api, self.mirror.put_release)
        self._probe = Probe(api, answered=self._vouch, returned=self._reconnect)
        self._log_fetching = LogFetching(api, self._keep_log)
        self._reflectors: list[Reflector] = []
        self._synced = False
        self._changes = ChangeQueue[ServiceKey]()
        self._rechecks: dict[ServiceKey, asyncio.TimerHandle] = {}
        self._pacing = Pacing()

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time that `reachable` begins to answer otherwise."""
        self._probe.reachability.add(changed)

    def reachable(self) -> bool:
        """Whether the API server answers and takes our credentials; False until it was asked."""
        return self._probe.reachable

    def away(self) -> Unreachable | Unanswered | None:
        """Why the API server is not reachable; None where it is, or was not asked yet."""
        return self._probe.away

    def refused(self) -> tuple[int, Resource] | None:
        """What has been refused for a while before all was listed once, and the HTTP status."""
        refused = ((r.refused(), r.resource) for r in self._reflectors)
        return next(((status, resource) for status, resource in refused if status), None)

    def age(self) -> timedelta | None:
        """How long ago the copy was last known to be the present; None before the first sync."""
        if not self._synced:
            return None
        return timedelta(seconds=time.monotonic() - min(r.current_at for r in self._reflectors))

    def derive(self, key: ServiceKey) -> InferenceService | None:
        """The service as it is by all that is known now; None where there is none."""
        derived = self._deriving.derive(key, self._probe.now())
        return derived.service if derived else None

    def look_for_knative(self) -> None:
        """Follow what the cluster has of it now, rather than when it would be noticed."""
        for reflector in self._reflectors:
            if reflector.resource.kind in KNATIVE:
                reflector.reconnect()

    async def feed(self) -> AsyncIterator[FeedEvent]:
        """Tell what is there, then Synced, then changes, until closed.

        Outages are survived inside; a bug in the following raises here.
        """
        self._reflectors = [
            Reflector(self._api, r, self.mirror) for r in followed(self._namespaces)
        ]
        self._pacing = Pacing()  # whoever consumes has been told nothing yet
        self._touch(self.mirror.keys())
        following = asyncio.create_task(self._follow(), name="following the cluster")
        following.add_done_callback(lambda _: self._changes.wake())
        try:
            while not self._synced:
                await self._woken(following)
            told_sync = False
            while True:
                for key in self._changes.pull():
                    for event in self._events(key):
                        yield event
                    await asyncio.sleep(0)  # a thousand services must not hold up the calls
                if not told_sync:
                    told_sync = True
                    yield Synced()
                await self._woken(following)
        finally:
            await self._stop(following)

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe.run(), name="probe")
            tasks.create_task(self.releases.run(), name="KServe's release")
            for n in range(LOGS_AT_ONCE):
                tasks.create_task(self._log_fetching.run(), name=f"log fetcher {n}")
            for reflector in self._reflectors:
                tasks.create_task(reflector.run(), name=f"reflector of {reflector.resource}")
            for reflector in self._reflectors:
                await reflector.synced.wait()
            # Who hears that all is listed may write at once.
            await self._probe.met.wait()
            await self.releases.admitted.wait()
            self._synced = True
            self._changes.wake()

    async def _woken(self, following: asyncio.Task[None]) -> None:
        await self._changes.wait()
        if following.done():
            log.error("following the cluster ended", exc_info=following.exception())
            following.result()

    async def _stop(self, following: asyncio.Task[None]) -> None:
        following.cancel()
        await asyncio.wait([following])
        self._synced = False
        self._deriving.stop_noting()
        for timer in self._rechecks.values():
            timer.cancel()
        self._rechecks.clear()

    def _events(self, key: ServiceKey) -> Iterator[FeedEvent]:
        """What there is to tell of a key, as it is now."""
        for uid in self.mirror.pop_departures(key):
            yield Gone(key, uid)
        derived = self._deriving.report(key, self._probe.now())
        if planned := self._rechecks.pop(key, None):
            planned.cancel()
        if derived is None:
            self._pacing.forget(key)
            return
        if derived.log_wanted:
            self._log_fetching.want(key, derived.log_wanted)
        if wait := self._pacing.wait(derived.service):
            self._look_again(key, wait)
            return
        if derived.recheck_at:
            self._look_again(key, (derived.recheck_at - self._probe.now()).total_seconds())
        yield Changed(derived.service)

    def _look_again(self, key: ServiceKey, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._rechecks[key] = loop.call_later(max(seconds, 0), self._touch, (key,))

    def _keep_log(self, key: ServiceKey, wanted: LogRequest, log: LogExcerpt) -> None:
        self._deriving.keep_log(key, wanted, log, self._probe.now())
        self._touch((key,))

    def _touch(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            self._changes.add(key)
            if self._synced:
                self._deriving.note(key, self._probe.now())

    def _vouch(self, asked_at: float) -> None:
        for reflector in self._reflectors:
            reflector.vouch(asked_at)

    def _reconnect(self) -> None:
        for reflector in self._reflectors:
            reflector.reconnect()
