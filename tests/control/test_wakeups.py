"""Readers are woken by changes of their target, some in each round of the event loop, and when they
are due."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field

from server.control.wakeups import CLOCK_STEP, WOKEN_AT_ONCE, Subscription, Wakeups
from server.control.watch_cache import ALL
from server.domain.service.inference_service import ServiceKey
from tests.control.virtual_time import run_in_virtual_time

IRIS = ServiceKey("models", "iris")
EVERYTHING = ServiceKey(ALL, "")


@dataclass
class Feed:
    """A target whose changes have numbers."""

    version: int = 0
    wakeups: Wakeups = field(init=False)

    def __post_init__(self) -> None:
        self.wakeups = Wakeups(lambda: self.version)

    def change(self) -> None:
        before, self.version = self.version, self.version + 1
        self.wakeups.notify(IRIS, before)


async def test_a_reader_is_woken_by_a_change_and_gets_the_version_it_had_seen() -> None:
    feed = Feed()
    with feed.wakeups.subscribe(IRIS) as changes:
        waiting = asyncio.ensure_future(changes.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        feed.change()
        assert await waiting == 0
        assert changes.version == 1


async def test_a_reader_that_was_busy_misses_no_change() -> None:
    feed = Feed()
    with feed.wakeups.subscribe(IRIS) as changes:
        feed.change()
        feed.change()
        assert await changes.wait() == 0
        assert changes.version == 2


async def test_a_quiet_reader_has_seen_all_that_came_before_its_change() -> None:
    feed = Feed()
    with feed.wakeups.subscribe(IRIS) as changes:
        waiting = asyncio.ensure_future(changes.wait())
        await asyncio.sleep(0)
        feed.version = 1000  # other targets have changed
        feed.change()
        assert await waiting == 1000


async def test_readers_are_woken_some_in_each_round() -> None:
    feed, rounds = Feed(), list[int]()
    woken = 0

    async def read(changes: Subscription) -> None:
        nonlocal woken
        await changes.wait()
        woken += 1

    with ExitStack() as stack:
        subscriptions = [
            stack.enter_context(feed.wakeups.subscribe(IRIS)) for _ in range(3 * WOKEN_AT_ONCE)
        ]
        readers = [asyncio.ensure_future(read(changes)) for changes in subscriptions]
        await asyncio.sleep(0)
        feed.change()
        while woken < len(readers):
            before = woken
            await asyncio.sleep(0)
            rounds.append(woken - before)
    assert 0 < max(rounds) <= WOKEN_AT_ONCE


async def test_a_reader_that_leaves_does_not_keep_the_others_waiting() -> None:
    feed = Feed()
    with ExitStack() as stack:
        subscriptions = [stack.enter_context(feed.wakeups.subscribe(IRIS)) for _ in range(3)]
        readers = [asyncio.ensure_future(changes.wait()) for changes in subscriptions]
        await asyncio.sleep(0)
        readers[0].cancel()
        feed.change()
        readers[1].cancel()
        assert await readers[2] == 0
        assert [reader.cancelled() for reader in readers] == [True, True, False]


async def test_a_change_of_another_target_wakes_nobody() -> None:
    feed = Feed()
    with feed.wakeups.subscribe(EVERYTHING) as changes:
        feed.change()
        assert await changes.wait(0.001) == 0
        assert changes.version == 1


def test_a_reader_is_woken_when_it_is_due_and_never_before() -> None:
    async def wait() -> None:
        feed, loop = Feed(), asyncio.get_running_loop()
        with feed.wakeups.subscribe(IRIS) as changes:
            for seconds in (30.0, 1.0, 7.03, 0.049):
                changes.due = loop.time() + seconds
                await changes.wait()
                # One that is woken before would find nothing to do, and wait again, until then.
                assert changes.due <= loop.time() <= changes.due + CLOCK_STEP + 1e-6

    run_in_virtual_time(wait())


def test_a_reader_whose_time_has_moved_on_is_not_woken_at_the_former_one() -> None:
    async def wait() -> None:
        feed, loop = Feed(), asyncio.get_running_loop()
        with feed.wakeups.subscribe(IRIS) as changes:
            changes.due = loop.time() + 1
            waiting = asyncio.ensure_future(changes.wait())
            await asyncio.sleep(0.5)
            feed.change()
            await waiting
            changes.due = loop.time() + 5
            await changes.wait()
            assert loop.time() >= changes.due

    run_in_virtual_time(wait())
