"""However services change and streams read, a stream sends a consistent history.

Random services come, change, leave and come again while readers of every speed follow them, get
cut, and resume from any message they had.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.control import watch_cache
from server.control.authorizer import Authorizer
from server.control.read import Reader
from server.control.watch import Watcher
from server.control.watch_cache import ALL, ServiceIdentity, WatchCache
from server.control.watch_stream import EventType, Watch, WatchEvent
from server.domain.kubernetes.selectors import Selector
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey
from tests.control.event_stream import EventStream
from tests.control.virtual_time import run_in_virtual_time

NAMES = ("a", "b", "c")
AUTHORIZER = Authorizer("models")
EVERYTHING = ServiceKey(ALL, "")
TEAM_A = Selector.parse("team=a")


@dataclass
class World:
    """The services as they really are; every step is put into the cache, as a feed would."""

    cache: WatchCache = field(default_factory=WatchCache)
    services: dict[ServiceKey, InferenceService] = field(default_factory=dict)
    made: int = 0

    def step(self, name: str, what: str) -> None:
        key = ServiceKey("ns", name)
        match what, self.services.get(key):
            case "change", None:
                self.made += 1
                self._put(_service(key, f"uid-{self.made}"))
            case "change", service:
                self._put(replace(service, generation=service.generation + 1))
            case "recreate", service if service:
                # A feed that coalesces reports the new one without the end of the old.
                self.made += 1
                self._put(_service(key, f"uid-{self.made}"))
            case ("a" | "b" | "c") as team, service if service:
                generation = service.generation + 1
                self._put(replace(service, generation=generation, selectable_labels={"team": team}))
            case "delete", service if service:
                del self.services[key]
                self.cache.remove(key)

    def _put(self, service: InferenceService) -> None:
        self.services[service.key] = service
        self.cache.put(service)


def _service(key: ServiceKey, uid: str) -> InferenceService:
    status = InferenceServiceStatus(State.PENDING)
    return InferenceService(key, uid, 1, None, status, "", datetime(2026, 1, 1, tzinfo=UTC))


@dataclass
class WatchReader:
    """A caller that applies events, and checks that they are a history."""

    watcher: Watcher
    selector: Selector = field(default_factory=Selector)
    known: dict[ServiceKey, InferenceService] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    token: str = ""
    opening: set[ServiceKey] | None = None
    stream: EventStream | None = None
    next: asyncio.Future[WatchEvent] | None = None

    def open(self) -> None:
        watch = Watch(
            EVERYTHING, self.selector, resume_token=self.token, heartbeat=timedelta(hours=1)
        )
        self.stream = EventStream(self.watcher, watch)
        self.opening = None if self.token else set()

    async def read(self, most: int) -> None:
        """Read until nothing comes at once, or `most` messages came."""
        assert self.stream
        for _ in range(most):
            self.next = self.next or asyncio.ensure_future(self.stream.next())
            done, _ = await asyncio.wait([self.next], timeout=0.001)
            if not done:
                return
            event, self.next = self.next.result(), None
            self.take(event)

    async def close(self) -> None:
        assert self.stream
        if self.next:
            self.next.cancel()
            with suppress(asyncio.CancelledError):
                await self.next
            self.next = None
        await self.stream.close()

    async def cut(self) -> None:
        await self.close()
        self.open()

    def take(self, event: WatchEvent) -> None:
        self.token = event.resume_token
        match event.type:
            case EventType.RESET:
                self.opening = set()
            case EventType.SYNCED:
                self._end_opening()
            case EventType.SNAPSHOT | EventType.CHANGED:
                self._learn(event.service)
            case EventType.LEFT:
                assert event.service
                self._drop(event.service)
            case EventType.DELETED:
                assert event.service
                self.ended.add(event.service.uid)
                self._drop(event.service)

    def _learn(self, service: InferenceService | None) -> None:
        assert service
        before = self.known.get(service.key)
        assert self.opening is not None or before != service, "a state was sent twice"
        assert self.selector.matches(service.selectable_labels), "it does not match"
        assert service.uid not in self.ended, "a service that was reported as deleted came back"
        if before and before.uid == service.uid:
            assert service.generation >= before.generation, "a service went back in time"
        elif before:
            assert self.opening is not None, "a new service came before the end of the old was sent"
        self.known[service.key] = service
        if self.opening is not None:
            self.opening.add(service.key)

    def _drop(self, service: InferenceService | ServiceIdentity) -> None:
        known = self.known.get(service.key)
        assert known, "a service ended that the reader does not have"
        assert known.uid == service.uid, "a service ended that the reader does not have"
        del self.known[service.key]

    def _end_opening(self) -> None:
        if self.opening is not None:
            self.known = {key: s for key, s in self.known.items() if key in self.opening}
        self.opening = None


STEPS = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(["change", "change", "recreate", "delete", *"abc"])
)
READS = st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans())


PLANS = st.lists(st.one_of(STEPS, READS), min_size=10, max_size=60)
Plan = list[tuple[str, str] | tuple[int, int, bool]]


# Of two readers that have come equally far, both begin anew.
BOTH_TOO_OLD: Plan = [
    ("a", "change"),
    (0, 1, False),
    (1, 1, False),
    ("a", "recreate"),
    ("a", "recreate"),
    ("a", "delete"),
]


@settings(max_examples=1000)
@given(PLANS, st.booleans())
@example(BOTH_TOO_OLD, True)
def test_a_stream_sends_a_history_that_ends_at_the_current_state(plan: Plan, small: bool) -> None:
    with (
        patch.object(watch_cache, "MOST_TOMBSTONES", 2 if small else 10_000),
        patch.object(watch_cache, "MOST_FORMER_LABELS", 2 if small else 10_000),
    ):
        run_in_virtual_time(play(plan))


async def play(plan: Plan) -> None:
    world = World()
    world.cache.synced = True
    # No cluster is asked.
    reading = Reader(None, world.cache, AUTHORIZER)  # type: ignore[arg-type]
    watcher = Watcher(None, world.cache, reading, AUTHORIZER)  # type: ignore[arg-type]
    readers = [WatchReader(watcher, selector) for selector in (Selector(), Selector(), TEAM_A)]
    for reader in readers:
        reader.open()
    for step in plan:
        match step:
            case (str(name), str(what)):
                world.step(name, what)
            case (int(reader), int(most), bool(is_cut)):
                await readers[reader].read(most)
                if is_cut:
                    await readers[reader].cut()
    for reader in readers:
        await reader.read(100)
        assert reader.known == {
            key: service
            for key, service in world.services.items()
            if reader.selector.matches(service.selectable_labels)
        }
        await reader.close()
