"""However services change, replicas lag and readers are cut, a resumed watch sends a history.

Time is virtual. Two replicas follow one history, each delayed by itself; readers of one service and
of many are cut after any message and resume on either replica, or after its restart.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.control import watch_cache
from server.control.watch_cache import ALL
from server.control.watch_stream import Watch
from server.domain.kubernetes.selectors import Selector
from server.domain.service.inference_service import ServiceKey
from tests.control.replica_world import Connection, History, Replica
from tests.control.virtual_time import run_in_virtual_time

KEYS = [ServiceKey("ns", name) for name in ("iris", "lily", "rose")]
TEAM_A = Selector.parse("team=a")
HEARTBEAT = timedelta(hours=1)
WATCHES = [
    Watch(KEYS[0], Selector(), heartbeat=HEARTBEAT),
    Watch(KEYS[0], TEAM_A, heartbeat=HEARTBEAT),
    Watch(ServiceKey(ALL, ""), Selector(), heartbeat=HEARTBEAT),
    Watch(ServiceKey("ns", ""), TEAM_A, heartbeat=HEARTBEAT),
]
# More than a replica needs to see a change, less than a reader waits for one that is behind.
MOMENT = 0.05
LONG = 10.0

REPLICAS = st.integers(0, 1)
READERS = st.integers(0, len(WATCHES) - 1)
WHAT = st.sampled_from(["put", "put", "a", "b", "delete", "recreate"])
CHANGES = st.tuples(st.just("change"), st.sampled_from([KEYS[0], *KEYS]), WHAT)
STEPS = st.one_of(
    CHANGES,
    CHANGES,
    st.tuples(st.just("hold"), REPLICAS),
    st.tuples(st.just("release"), REPLICAS),
    st.tuples(st.just("read"), READERS, st.integers(1, 3)),
    st.tuples(st.just("read"), READERS, st.integers(1, 3)),
    st.tuples(st.just("cut"), READERS, REPLICAS),
    st.tuples(st.just("cut"), READERS, REPLICAS),
    # A reader that has seen a change comes to the replica that has not.
    st.tuples(st.just("lag"), READERS, REPLICAS, WHAT),
    st.tuples(st.just("wait"), st.sampled_from([0.0, MOMENT, LONG])),
    st.tuples(st.just("restart"), REPLICAS),
)
PLANS = st.lists(STEPS, min_size=8, max_size=40)
Plan = list[tuple[Any, ...]]


async def play(plan: Plan) -> None:
    """Play a plan, then let all replicas and readers come to rest, and compare."""
    history = History()
    replicas = [Replica(history.store) for _ in range(2)]
    await asyncio.sleep(MOMENT)
    readers = [Connection(watch, replicas[nth % 2]) for nth, watch in enumerate(WATCHES)]
    for step in plan:
        match step:
            case "change", key, what:
                history.change(key, what)
            case "lag", nth, replica, what:
                replicas[replica].cluster.hold_feed()
                await readers[nth].resume(replicas[1 - replica])
                history.change(KEYS[0], what)
                readers[nth].allow(3)
                await asyncio.sleep(MOMENT)
                await readers[nth].resume(replicas[replica])
                readers[nth].allow(3)
                await asyncio.sleep(MOMENT)
            case "hold", nth:
                replicas[nth].cluster.hold_feed()
            case "release", nth:
                replicas[nth].cluster.release_feed()
            case "read", nth, messages:
                readers[nth].allow(messages)
                await asyncio.sleep(MOMENT)
            case "cut", nth, replica:
                await readers[nth].resume(replicas[replica])
            case "wait", seconds:
                await asyncio.sleep(seconds)
            case "restart", nth:
                await _restart(replicas[nth], readers)
    await _come_to_rest(history, replicas, readers)


async def _restart(replica: Replica, readers: list[Connection]) -> None:
    await replica.restart()
    await asyncio.sleep(MOMENT)
    for reader in readers:
        if reader.replica is replica:
            await reader.resume(replica)


async def _come_to_rest(
    history: History, replicas: list[Replica], readers: list[Connection]
) -> None:
    for replica in replicas:
        replica.cluster.release_feed()
    await asyncio.sleep(MOMENT)
    for reader in readers:
        reader.allow(100)
    await asyncio.sleep(LONG)
    for nth, reader in enumerate(readers):
        # One that was told that its replica is behind comes again.
        await reader.resume(replicas[nth % 2])
        reader.allow(100)
    await asyncio.sleep(LONG)
    for reader in readers:
        await reader.close()
        assert reader.known == history.selected(reader.watch)
    for replica in replicas:
        await replica.stop()


def check(plan: Plan) -> None:
    with (
        patch.object(watch_cache, "MOST_TOMBSTONES", 3),
        patch.object(watch_cache, "MOST_FORMER_LABELS", 2),
    ):
        run_in_virtual_time(play(plan))


@settings(max_examples=1000)
@given(PLANS)
def test_a_watch_that_resumes_on_any_replica_is_sent_a_history(plan: Plan) -> None:
    check(plan)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(max_examples=20_000, derandomize=False, print_blob=True)
@given(PLANS)
def test_twenty_thousand_histories_of_watches_that_resume_on_any_replica(plan: Plan) -> None:
    check(plan)
