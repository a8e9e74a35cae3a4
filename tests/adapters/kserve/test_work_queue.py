"""Which services are handed out to the workers that store revisions, and when."""

from __future__ import annotations

import asyncio

import pytest

from server.adapters.kserve.revisions import retry_pauses
from server.adapters.kserve.revisions.retry_pauses import RetryPauses
from server.adapters.kserve.revisions.work_queue import WorkQueue
from server.domain.service.inference_service import ServiceKey
from tests.patience import PATIENCE_SECONDS

ONE, OTHER, THIRD = (ServiceKey("team-a", name) for name in ("one", "other", "third"))


@pytest.fixture
def pauses() -> RetryPauses:
    return RetryPauses()


@pytest.fixture
def queue(pauses: RetryPauses) -> WorkQueue:
    return WorkQueue(pauses)


async def taken(queue: WorkQueue) -> ServiceKey:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await queue.get()


async def rest(queue: WorkQueue) -> None:
    """Assert that nothing is handed out now."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await queue.get()


async def test_a_service_is_handed_out_to_one_worker_at_a_time(queue: WorkQueue) -> None:
    queue.add(ONE)
    assert await taken(queue) == ONE
    queue.add(ONE)
    queue.add(OTHER)
    assert await taken(queue) == OTHER
    await rest(queue)
    waiting = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)
    queue.done(ONE)
    assert await waiting == ONE
    queue.done(ONE)
    await rest(queue)


async def test_the_backlog_comes_after_what_is_due_and_waits_for_no_busy_service(
    queue: WorkQueue,
) -> None:
    queue.add_backlog([ONE, OTHER])
    queue.add(THIRD)
    assert await taken(queue) == THIRD
    queue.add(THIRD)
    assert {await taken(queue), await taken(queue)} == {ONE, OTHER}
    queue.done(THIRD)
    assert await taken(queue) == THIRD


async def test_a_paused_service_waits_and_keeps_no_other_waiting(
    queue: WorkQueue, pauses: RetryPauses
) -> None:
    pauses.fail(ONE, at_least=600)
    queue.add(ONE)
    queue.add(OTHER)
    assert await taken(queue) == OTHER
    await rest(queue)
    pauses.end(ONE)
    queue.add_after(ONE, 0)
    assert await taken(queue) == ONE


async def test_while_many_paused_services_are_passed_over_other_tasks_run(
    queue: WorkQueue, pauses: RetryPauses
) -> None:
    """A namespace of ten thousand services can be paused."""
    pauses.fail("paused", at_least=600)
    for nth in range(100):
        queue.add(ServiceKey("paused", f"s{nth}"))
    queue.add(ONE)
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await taken(queue) == ONE
    counting.cancel()
    assert rounds >= 100
    queue.stop()


def test_failures_of_a_namespace_that_come_together_count_as_one(
    pauses: RetryPauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_pauses, "FIRST_PAUSE", 100.0)
    for _ in range(4):
        pauses.fail("team-a")
    assert 0 < pauses.left(ONE) <= 100


async def test_a_service_is_due_at_the_earliest_of_its_times(queue: WorkQueue) -> None:
    queue.add_after(ONE, 3600)
    queue.add_after(ONE, 0.01)
    queue.add_after(ONE, 3600)
    assert await taken(queue) == ONE
    queue.done(ONE)
    await rest(queue)
    queue.add_after(ONE, 0.001)
    queue.discard(ONE)
    await rest(queue)


async def test_while_it_stands_still_nothing_is_handed_out(pauses: RetryPauses) -> None:
    for seconds in (3600, 0.01):
        queue = WorkQueue(pauses)
        waiting = asyncio.create_task(taken(queue))
        await asyncio.sleep(0)
        queue.stand_still(seconds)
        queue.stand_still(0)
        queue.add(ONE)
        if seconds > 1:
            await rest(queue)
            assert not waiting.done()
            waiting.cancel()
        else:
            assert await waiting == ONE
