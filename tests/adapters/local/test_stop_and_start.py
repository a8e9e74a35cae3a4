"""Stop at every moment of a rollout, and Start at every moment of a stop, under requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import aiohttp
import psutil
import pytest

from server.domain.rollout.status import State
from server.domain.service.inference_service import InferenceService
from tests.adapters.local.world import World, eventually, servers_of

STEP = 0.15
MOMENTS = pytest.mark.parametrize(
    "moments",
    [range(0, 6, 2), pytest.param(range(20), marks=pytest.mark.soak)],
    ids=["some", "all"],
)


class Answer(NamedTuple):
    """Of a request: when it began, its status, and the generation that answered."""

    began: float
    status: int
    generation: int


class Callers:
    """Callers of one address, who note every answer."""

    def __init__(self, url: str) -> None:
        self.answers: list[Answer] = []
        self.failed: list[str] = []
        self._url = f"{url}/v2/models/iris/infer"
        self._done = asyncio.Event()

    async def call(self, session: aiohttp.ClientSession) -> None:
        while not self._done.is_set():
            began = time.monotonic()
            try:
                async with session.post(self._url, data=b"x") as response:
                    await response.read()
                    name = response.headers.get("X-Server", "//0")
                    generation = int(name.split("/")[2])
                    self.answers.append(Answer(began, response.status, generation))
            except Exception as e:
                self.failed.append(repr(e))
            await asyncio.sleep(0.01)

    def end(self) -> None:
        self._done.set()

    def between(self, begin: float, end: float) -> set[tuple[int, int]]:
        """Status and generation of the requests that began in this time."""
        return {(a.status, a.generation) for a in self.answers if begin <= a.began < end}


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Callers]:
    callers = Callers(url)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as kept, asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(callers.call(kept))
        try:
            yield callers
        finally:
            callers.end()
    assert callers.failed == []
    assert {answer.status for answer in callers.answers} <= {200, 503}


@pytest.fixture
def lies(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong in what is told, compared with the processes at that moment."""
    found: list[str] = []
    put = world.told.put

    def compared(service: InferenceService) -> None:
        before = world.told.latest(service.key)
        new = before is None or before.status.state is not service.status.state
        if new and service.status.state in (State.STOPPED, State.READY):
            compare(service)
        put(service)

    def compare(service: InferenceService) -> None:
        # The environments of all processes take longer to read.
        running = map(command_of, psutil.Process().children(recursive=True))
        names = [command for command in running if f" {service.key}/" in command]
        if service.status.state is State.STOPPED and names:
            found.append(f"STOPPED, and there are {names}")
        own = f"{service.key}/{service.generation}/"
        if service.status.state is State.READY and not any(own in name for name in names):
            found.append(f"{own} is READY, and there are {names}")

    monkeypatch.setattr(world.told, "put", compared)
    return found


def command_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@MOMENTS
async def test_stopped_at_every_moment_of_a_rollout(
    world: World, lies: list[str], moments: range
) -> None:
    first = await world.ready(world.model("first"))
    async with calling(first.status.url) as callers:
        for moment in moments:
            await world.deploy(world.model(f"at-{moment}", load_seconds=0.3))
            await asyncio.sleep(moment * STEP)
            stop = await world.deploy(None, stop=True)
            stopped = await world.until(State.STOPPED, generation=stop.service.generation)
            told_at = time.monotonic()
            assert stopped.generation == stop.service.generation
            assert not stopped.status.serving
            await asyncio.sleep(0.05)
            starts_at = time.monotonic()
            start = await world.deploy(None, stop=False)
            generation = start.service.generation
            ready = await world.told.ready(start.service.key, generation)
            ready_at = time.monotonic()
            assert await world.generation_of(ready) == generation
            await asyncio.sleep(0.05)
            assert callers.between(told_at, starts_at) <= {(503, 0)}
            assert callers.between(ready_at, time.monotonic()) <= {(200, generation)}
    assert lies == []


@MOMENTS
async def test_started_at_every_moment_of_a_stop(
    world: World, lies: list[str], moments: range
) -> None:
    """Its model server takes some time to end."""
    hold = world.folder / "hold"
    hold.mkdir()
    held = hold / "model-serving.iris"
    first = await world.ready(world.model(hold=str(hold)))
    async with calling(first.status.url) as callers:
        for moment in moments:
            held.touch()
            stop = await world.deploy(None, stop=True)
            await asyncio.sleep(moment * STEP)
            told = world.told.latest(first.key)
            assert told
            assert told.generation == stop.service.generation
            assert told.status.state is State.PROGRESSING
            start = await world.deploy(None, stop=False)
            generation = start.service.generation
            ready = await world.told.ready(first.key, generation)
            ready_at = time.monotonic()
            assert await world.generation_of(ready) == generation
            await asyncio.sleep(0.05)
            assert callers.between(ready_at, time.monotonic()) <= {(200, generation)}
            held.unlink()
            await eventually("the older server has ended", lambda: len(servers_of(world)) == 1)
    assert lies == []
