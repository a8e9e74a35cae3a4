"""What a moment of many calls took is given back to the system."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter

import psutil

from tests.alone import alone, clean_environment
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


def test_no_number_of_objects_that_live_makes_the_loop_look_at_all_of_them() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITH_MANY_OBJECTS],
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "0"


_WITH_MANY_OBJECTS = """
import asyncio, gc
from server.app import keep_returning

async def main():
    task = asyncio.create_task(keep_returning())
    await asyncio.sleep(0)
    before = gc.get_stats()[2]["collections"]
    alive = [[n] for n in range(1_000_000)]
    print(gc.get_stats()[2]["collections"] - before)
    task.cancel()

asyncio.run(main())
"""
