"""Rollouts that nobody has, named by many, cost the API server little."""

from __future__ import annotations

import asyncio

import pytest

from server.control.live_reads import MOST_AT_ONCE, LiveReads
from server.domain.errors import ClusterUnavailable
from server.domain.service.inference_service import InferenceService, ServiceKey


class SlowCluster:
    """Answers reads when it is released; counts them."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.reads: list[str] = []
        self.open = self.most_open = 0
        self.error: Exception | None = None

    async def read(self, key: ServiceKey) -> InferenceService | None:
        self.reads.append(key.name)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await self.released.wait()
        self.open -= 1
        if self.error:
            raise self.error
        return None


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_callers_of_one_service_share_a_read_that_has_not_begun() -> None:
    cluster = SlowCluster()
    reads = LiveReads(cluster)  # type: ignore[arg-type]
    first = asyncio.create_task(reads.read(ServiceKey("a", "one")))
    await settle()
    others = [asyncio.create_task(reads.read(ServiceKey("a", "one"))) for _ in range(100)]
    cluster.released.set()
    await asyncio.gather(first, *others)
    # The first had begun: its answer may be from before the others asked.
    assert cluster.reads == ["one", "one"]


async def test_reads_of_many_services_wait_for_room() -> None:
    cluster = SlowCluster()
    reads = LiveReads(cluster)  # type: ignore[arg-type]
    asked = [asyncio.create_task(reads.read(ServiceKey("a", f"s{n}"))) for n in range(100)]
    await settle()
    assert cluster.open == MOST_AT_ONCE
    cluster.released.set()
    await asyncio.gather(*asked)
    assert len(cluster.reads) == 100
    assert cluster.most_open == MOST_AT_ONCE


async def test_a_caller_that_leaves_takes_nothing_from_the_others() -> None:
    cluster = SlowCluster()
    reads = LiveReads(cluster)  # type: ignore[arg-type]
    leaving, staying = (
        asyncio.create_task(reads.read(ServiceKey("a", "one"))),
        asyncio.create_task(reads.read(ServiceKey("a", "one"))),
    )
    await settle()
    leaving.cancel()
    cluster.error = ClusterUnavailable("away")
    cluster.released.set()
    with pytest.raises(ClusterUnavailable):
        await staying


async def test_what_nobody_waits_for_any_longer_is_not_read() -> None:
    cluster = SlowCluster()
    reads = LiveReads(cluster)  # type: ignore[arg-type]
    asked = [asyncio.create_task(reads.read(ServiceKey("a", f"s{n}"))) for n in range(100)]
    await settle()
    for task in asked[:-1]:
        task.cancel()
    await settle()
    again = asyncio.create_task(reads.read(ServiceKey("a", "s50")))
    await settle()
    cluster.released.set()
    await asyncio.gather(asked[-1], again)
    assert sorted(cluster.reads[MOST_AT_ONCE:]) == ["s50", "s99"]
