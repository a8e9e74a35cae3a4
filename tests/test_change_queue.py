"""The queue of changed keys, against every order of changes, pulls and wakes."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from server.change_queue import ChangeQueue

KEYS = st.sampled_from("abcd")


@given(st.lists(KEYS))
def test_each_key_is_pulled_once_in_the_order_of_its_first_change(changes: list[str]) -> None:
    queue = ChangeQueue(changes)
    assert list(queue.pull()) == list(dict.fromkeys(changes))
    assert list(queue.pull()) == []


@given(st.lists(st.one_of(KEYS, st.none())))
def test_a_pull_takes_a_key_that_changes_meanwhile_where_it_stands(steps: list[str | None]) -> None:
    """Each step is a change, or None for a key that is pulled."""
    queue, expected = ChangeQueue[str](), list[str]()
    for step in steps:
        if step is not None:
            queue.add(step)
            expected += [] if step in expected else [step]
        elif expected:
            assert next(queue.pull()) == expected.pop(0)
        else:
            assert list(queue.pull()) == []
    assert list(queue.pull()) == expected


def test_a_pull_ends_although_its_reader_makes_changes() -> None:
    queue = ChangeQueue("ab")
    for key in queue.pull():
        queue.add(key)
    assert list(queue.pull()) == ["a", "b"]


@given(st.lists(st.tuples(KEYS, st.integers(0, 3))), st.lists(st.integers(0, 3)))
def test_a_reader_that_waits_and_pulls_ends_with_the_latest_of_every_key(
    changes: list[tuple[str, int]], pauses: list[int]
) -> None:
    """`pauses`: turns of the event loop that the reader takes for its nth key."""

    async def run() -> None:
        queue = ChangeQueue[str]()
        latest: dict[str, int] = {}
        seen: dict[str, int] = {}

        async def read() -> None:
            reads = 0
            while True:
                await queue.wait()
                for key in queue.pull():
                    for _ in range(pauses[reads] if reads < len(pauses) else 0):
                        await asyncio.sleep(0)
                    reads += 1
                    seen[key] = latest[key]

        reader = asyncio.create_task(read())
        for number, (key, turns) in enumerate(changes):
            latest[key] = number
            queue.add(key)
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        assert seen == latest

    asyncio.run(run())


async def test_an_add_ends_one_wait() -> None:
    queue = ChangeQueue[str]()
    queue.add("a")
    async with asyncio.timeout(10):
        await queue.wait()
    assert list(queue.pull()) == ["a"]
    began = time.monotonic()
    await queue.wait(0.05)
    assert time.monotonic() - began >= 0.05
