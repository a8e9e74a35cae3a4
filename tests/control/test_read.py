"""A List over many services leaves the event loop to others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from server.control.authorizer import Authorizer
from server.control.call import Call
from server.control.read import ListQuery, Reader
from server.control.watch_cache import ALL, WatchCache
from server.domain.kubernetes.selectors import MOST_REQUIREMENTS, Selector
from server.domain.service.inference_service import ServiceKey
from tests.loop_steps import LoopSteps
from tests.memory_cluster.cluster import MemoryCluster

from .test_watch_cache import SERVICE

SERVICES = 10_000


def test_the_longest_selector_over_ten_thousand_services_keeps_nobody_waiting(
    loop_steps: LoopSteps,
) -> None:
    cache = WatchCache()
    labels = {f"l{i}": "a" for i in range(MOST_REQUIREMENTS)}
    for nth in range(SERVICES):
        key = ServiceKey("models", f"s{nth:05}")
        cache.put(replace(SERVICE, key=key, uid=key.name, selectable_labels=labels))
    cache.mark_synced()
    selector = Selector.parse(
        ",".join(f"l{i} notin (b,c,d,e,f,g,h,i,j,k,l,m)" for i in range(MOST_REQUIREMENTS))
    )
    query = ListQuery(ServiceKey(ALL, ""), selector, page_size=10)
    loop_steps.reset()
    listed = asyncio.run(Reader(MemoryCluster(), cache, Authorizer("models")).list(Call(), query))
    assert listed.total == SERVICES
    assert [s.key.name for s in listed.services] == [f"s{n:05}" for n in range(10)]
    assert listed.more
    assert loop_steps.longest.seconds < 0.05, str(loop_steps.longest)


def test_pages_with_a_selector_are_those_of_the_whole_list() -> None:
    cache = WatchCache()
    for nth in range(25):
        key = ServiceKey("models", f"s{nth:05}")
        team = "even" if nth % 2 == 0 else "odd"
        cache.put(replace(SERVICE, key=key, uid=key.name, selectable_labels={"team": team}))
    cache.mark_synced()
    reading, names, token = Reader(MemoryCluster(), cache, Authorizer("models")), [], ""
    for _ in range(5):
        query = ListQuery(ServiceKey(ALL, ""), Selector.parse("team=even"), 3, page_token=token)
        listed = asyncio.run(reading.list(Call(), query))
        assert listed.total == 13
        names += [s.key.name for s in listed.services]
        token = listed.token_after(listed.services[-1])
        assert listed.more == (len(names) < 13)
    assert names == [f"s{n:05}" for n in range(0, 25, 2)]
