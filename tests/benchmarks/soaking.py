"""Long runs of WatchStatus: changes beside stalled readers, and a storm of reconnections."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from modelservice.v1 import model_service_pb2 as pb

from tests.patience import PATIENCE_SECONDS

from .comparing import Comparison, Say
from .samples import NAMESPACE
from .streaming import NAME, p99, watched_server

REQUEST = pb.WatchStatusRequest(namespace=NAMESPACE, name=NAME).SerializeToString()
# SNAPSHOT and SYNCED.
OPENING = 2
# By then the windows of stalled readers are full, and heaps have grown to what they need.
WARM_UP_CHANGES = 10
NEWS_EVERY = 25


@dataclass
class Soaked:
    """The p99 of the readers that read, beside that of a server without stalled readers, and the
    memory in bytes after each change."""

    p99: Comparison
    memory: list[int] = field(default_factory=list)


@dataclass
class Stormed:
    """The seconds until all were served; the streams that were refused first, beside the refusals
    that the server logged by their reason; and the streams that began anew."""

    seconds: float
    refused: int
    logged: dict[str, int]
    resets: int


async def soak(say: Say, *, streams: int, stalled: int, seconds: float, folder: Path) -> Soaked:
    """Change a service for so long, while so many of its readers do not read.

    Raises LoadFailed unless each other reader gets every change.
    """
    requests = [REQUEST] * (streams - stalled)
    with watched_server(folder) as beside, watched_server(folder) as stalling:
        for side in (beside, stalling):
            await side.watchers.open(requests, OPENING)
        await stalling.watchers.open_stalled([REQUEST] * stalled)
        soaked = Soaked(Comparison("p99", "ms", stalling.p99, beside.p99, "none stalled"))
        numbers, ends = count(1), 0.0
        while not ends or time.monotonic() < ends:
            number = next(numbers)
            times = {id(side): await side.time_change(number) for side in (beside, stalling)}
            if number == WARM_UP_CHANGES:
                ends = time.monotonic() + seconds
            elif ends:
                for side in (beside, stalling):
                    side.p99.append(p99(times[id(side)]))
                soaked.memory.append(stalling.peer.resident_bytes())
            if number % NEWS_EVERY == 0 and soaked.memory:
                say(f"soak: {number} changes, {stalling.p99[-1]:,.0f} ms, {soaked.memory[-1]:,} B")
        return soaked


async def storm(*, streams: int, most_streams: int, folder: Path) -> Stormed:
    """Cut so many readers at once, and open them again with their tokens, on a server whose limit
    is `most_streams`. Raises LoadFailed unless all are served."""
    settings = {"MODELSERVICE_MAX_STREAMS": str(most_streams)}
    with watched_server(folder, settings) as side:
        await side.watchers.open([REQUEST] * streams, OPENING)
        seconds = await side.storm(1)
        log = folder / "memory_server.log"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while sum((logged := _logged_refusals(log)).values()) < side.watchers.refused:
                await asyncio.sleep(0.1)
        return Stormed(seconds, side.watchers.refused, logged, side.watchers.resets)


def _logged_refusals(log: Path) -> dict[str, int]:
    events = [
        json.loads(line) for line in log.read_text().splitlines() if line[:1] + line[-1:] == "{}"
    ]
    refusals: Counter[str] = Counter()
    for event in events:
        if event["event"] == "calls refused":
            refusals[event["reason"]] += event["calls"]
    return dict(refusals)
