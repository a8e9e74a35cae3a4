"""The loop of a server, with its threads."""

from __future__ import annotations

import subprocess
import sys

from tests.alone import ROOT, clean_environment

_WITHOUT_THREADS = """
import asyncio, threading
from server.event_loop import run

def refuse(thread):
    raise RuntimeError("can't start new thread")

async def main():
    start = threading.Thread.start
    threading.Thread.start = refuse
    print(sum(await asyncio.gather(*(asyncio.to_thread(len, "x") for _ in range(100)))))
    threading.Thread.start = start

run(main())
"""


def test_a_server_needs_no_more_threads_for_its_files_than_at_its_start() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_THREADS],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("100\n", "")
