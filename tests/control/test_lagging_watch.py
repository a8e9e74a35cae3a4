"""A watch whose reader lags behind leaves the event loop to others."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from server.control.authorizer import Authorizer
from server.control.call import Call
from server.control.read import Reader
from server.control.watch import Watcher
from server.control.watch_cache import ALL, WatchCache
from server.control.watch_stream import EventType, Watch, WatchEvent
from server.domain.kubernetes.selectors import MOST_REQUIREMENTS, Selector
from server.domain.service.inference_service import ServiceKey
from tests.loop_steps import LONGEST_SECONDS, LoopSteps
from tests.memory_cluster.cluster import MemoryCluster
from tests.patience import PATIENCE_SECONDS

from .test_watch_cache import SERVICE

SERVICES = 10_000
SELECTOR = Selector.parse(
    ",".join(f"l{i} notin (b,c,d,e,f,g,h,i,j,k,l,m)" for i in range(MOST_REQUIREMENTS))
)
LABELS = {f"l{i}": "a" for i in range(MOST_REQUIREMENTS)}


def test_ten_thousand_changes_with_the_longest_selector_keep_nobody_waiting(
    loop_steps: LoopSteps,
) -> None:
    cache = WatchCache()
    services = [
        replace(SERVICE, key=ServiceKey("models", f"s{n}"), uid=f"{n}", selectable_labels=LABELS)
        for n in range(SERVICES)
    ]
    for service in services:
        cache.put(service)
    cache.mark_synced()
    authorizer = Authorizer("models")
    cluster = MemoryCluster()
    watcher = Watcher(cluster, cache, Reader(cluster, cache, authorizer), authorizer)

    async def lag() -> Counter[EventType]:
        came, synced, goes_on = Counter[EventType](), asyncio.Event(), asyncio.Event()
        all_came = asyncio.Event()

        async def send(event: WatchEvent) -> None:
            came[event.type] += 1
            if event.type is EventType.SYNCED:
                synced.set()
                await goes_on.wait()
            if came[EventType.CHANGED] + came[EventType.LEFT] == SERVICES:
                all_came.set()

        watch = Watch(ServiceKey(ALL, ""), SELECTOR)
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            watching = group.create_task(watcher.watch(Call(), watch, send))
            await synced.wait()
            for nth, service in enumerate(services):
                labels = LABELS | {f"l{MOST_REQUIREMENTS - 1}": "b"} if nth % 2 else LABELS
                cache.put(replace(service, generation=9, selectable_labels=labels))
            goes_on.set()
            await all_came.wait()
            watching.cancel()
        return came

    loop_steps.reset()
    half = SERVICES // 2
    assert asyncio.run(lag()) == {
        EventType.SNAPSHOT: SERVICES,
        EventType.SYNCED: 1,
        EventType.CHANGED: half,
        EventType.LEFT: half,
    }
    assert loop_steps.longest.seconds < LONGEST_SECONDS, str(loop_steps.longest)
