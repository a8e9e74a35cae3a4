"""What a moment of many calls took is given back to the system."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from server import memory_trimming
from tests.alone import ROOT, alone, clean_environment
from tests.attacks.connection import Connection

CALLS, PER_CONNECTION = 8000, 1000
RETURNED_WITHIN_SECONDS = 90.0


async def _begin_calls(address: str) -> list[Connection]:
    """Calls of which only the headers come."""
    answers: Counter[str] = Counter()
    opened = [await Connection.to(address, answers) for _ in range(CALLS // PER_CONNECTION)]
    for each in opened:
        for _ in range(PER_CONNECTION):
            each.headers("/modelservice.v1.ModelService/Get")
        await each.drain()
    return opened


@pytest.mark.processes
async def test_the_memory_of_many_calls_is_returned_once_they_have_ended() -> None:
    with alone(MODELSERVICE_STOP_DELAY="0") as server:
        process = psutil.Process(server.process.pid)

        async def until(true: bool, resident: int) -> None:
            ends = time.monotonic() + RETURNED_WITHIN_SECONDS
            while (process.memory_info().rss >= resident) != true:
                assert time.monotonic() < ends, f"{process.memory_info().rss >> 20} MiB"
                await asyncio.sleep(0.1)

        before = process.memory_info().rss
        opened = await _begin_calls(server.address)
        # Some 19 KiB each.
        most = before + CALLS * 12_000
        await until(True, most)
        for each in opened:
            each.close()
        await until(False, before + CALLS * 5_000)


@pytest.mark.processes
def test_a_mass_of_objects_is_never_examined_and_garbage_among_few_is_freed() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITH_MANY_OBJECTS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "many: 0 examined",
        "few: the knot is freed",
        "none: 0 examined",
    ]


# In a process of its own, of which all objects are known. "examined" counts those that a full
# collection finds.
_WITH_MANY_OBJECTS = """
import asyncio, gc, weakref
from server import memory_trimming

memory_trimming.EVERY_SECONDS = 0.01
examined = [0]

def collecting(phase, info):
    if phase == "start" and info["generation"] == 2:
        examined.append(len(gc.get_objects()))

class Knot:
    pass

async def rounds(number):
    until = trimmed[0] + number
    while trimmed[0] < until:
        await asyncio.sleep(0.01)

def trim(_):
    trimmed[0] += 1

async def main():
    task = asyncio.create_task(memory_trimming.keep_freeing())
    await rounds(2)
    gc.callbacks.append(collecting)
    lives = [[] for _ in range(1_000_000)]
    await rounds(2)
    print("many:", max(examined), "examined")
    knot = Knot()
    knot.itself, alive = knot, weakref.ref(knot)
    gc.collect(1)
    del knot
    lives += [[] for _ in range(30_000)]
    while alive():
        await asyncio.sleep(0.01)
    assert 0 < max(examined) < 110_000, examined
    print("few: the knot is freed")
    del examined[1:]
    await rounds(5)
    print("none:", max(examined), "examined")
    task.cancel()

trimmed = [0]
memory_trimming._malloc_trim = lambda: trim
asyncio.run(main())
"""


async def test_where_no_thread_can_be_started_memory_is_returned_later(monkeypatch) -> None:
    returned = threading.Event()
    refused = asyncio.Event()
    monkeypatch.setattr(memory_trimming, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(memory_trimming, "_malloc_trim", lambda: lambda _: returned.set())
    before = gc.get_threshold()

    def refuse(thread: threading.Thread) -> None:
        refused.set()
        raise RuntimeError("can't start new thread")

    # Earlier tests of this process may have left idle threads, which need no start. The executor is
    # this test's alone: one that has started no thread for a call counts one more as idle for ever,
    # so that later calls wait for others to end.
    monkeypatch.setattr(asyncio.get_running_loop(), "_default_executor", ThreadPoolExecutor())
    freeing = asyncio.create_task(memory_trimming.keep_freeing())
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        await refused.wait()
        await asyncio.sleep(0)
    while not returned.is_set():
        assert not freeing.done()
        await asyncio.sleep(0.01)
    assert gc.get_threshold() != before
    freeing.cancel()
    await asyncio.wait([freeing])
    assert gc.get_threshold() == before


async def test_a_server_that_stops_leaves_the_objects_of_another_one_frozen() -> None:
    one, other = (asyncio.create_task(memory_trimming.keep_freeing()) for _ in range(2))
    await asyncio.sleep(0)
    frozen = gc.get_freeze_count()
    other.cancel()
    await asyncio.wait([other])
    # Some may be freed meanwhile.
    assert gc.get_freeze_count() > frozen / 2
    one.cancel()
    await asyncio.wait([one])
