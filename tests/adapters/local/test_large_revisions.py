"""Revisions of large contents take neither the event loop nor memory."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import tracemalloc
from pathlib import Path
from statistics import median

import pytest

from server.domain.revisions.kept_content import LARGEST_CONTENT
from server.domain.revisions.revision import MOST_REVISIONS, Revision
from server.domain.service.commands import STOP_ANNOTATION, Applied, Deploy
from server.domain.service.spec_validation import MOST_SPEC_BYTES, MOST_VARIABLES
from tests.adapters.local.world import IRIS, World, eventually, world_of
from tests.loop_steps import LoopSteps

# As MODELSERVICE_REVISIONS may ask for.
MOST_THAT_MAY_BE_KEPT = 50
LONGEST_SECONDS = 0.05
# Less than the bound, since JSON has more than the texts.
KEPT, NOT_KEPT = LARGEST_CONTENT - 2**15, MOST_SPEC_BYTES - 2**15


async def write(world: World, nth: int, size: int, variables: int = MOST_VARIABLES) -> Applied:
    """Deploy a content of so many bytes, in a task of its own so that its steps are measured.

    No model server runs, which takes long and changes nothing here.
    """
    each = size // variables - len("VARIABLE_0000")
    env = {f"VARIABLE_{n:04}": f"{nth:02}".ljust(each, "x") for n in range(variables)}
    stopped = {STOP_ANNOTATION: "true"}
    spec = dataclasses.replace(world.model(), env=env)
    return await asyncio.create_task(world.cluster.apply(Deploy(IRIS, spec, {}, stopped)))


async def revisions(world: World) -> list[Revision]:
    found = await asyncio.create_task(world.cluster.history(IRIS))
    assert found
    return list(found.revisions)


def variable(revision: Revision) -> str | None:
    return revision.content and revision.content.spec.env["VARIABLE_0000"][:2]


@pytest.mark.parametrize("size", [KEPT, NOT_KEPT])
async def test_a_write_holds_the_loop_no_longer_for_many_large_revisions_than_for_few(
    tmp_path: Path, loop_steps: LoopSteps, size: int
) -> None:
    seconds: list[float] = []
    async with world_of(tmp_path, most_revisions=MOST_THAT_MAY_BE_KEPT) as world:
        for nth in range(MOST_THAT_MAY_BE_KEPT + 2):
            loop_steps.reset()
            await write(world, nth, size)
            seconds.append(loop_steps.longest.seconds)
        loop_steps.reset()
        found = await revisions(world)
        assert loop_steps.longest.seconds < LONGEST_SECONDS, str(loop_steps.longest)
    newest = MOST_THAT_MAY_BE_KEPT + 1
    kept = range(newest, 1, -1) if size == KEPT else [newest]
    assert [variable(r) for r in found if r.content] == [f"{nth:02}" for nth in kept]
    assert len(found) == MOST_THAT_MAY_BE_KEPT
    few, many = median(seconds[1:10]), median(seconds[-9:])
    assert many < min(LONGEST_SECONDS, 2 * few), (few, many)


async def test_large_contents_are_not_held_in_memory(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await write(world, 0, KEPT, variables=10)
        await write(world, 1, KEPT, variables=10)
        tracemalloc.start()
        try:
            for nth in range(2, MOST_REVISIONS + 2):
                await write(world, nth, KEPT, variables=10)
            await revisions(world)
            world.told.events.clear()
            gc.collect()
            # The service itself, and what holds its texts. The last listing goes a little later.
            await eventually("little is held", lambda: traced() < 2 * KEPT)
        finally:
            tracemalloc.stop()


def traced() -> int:
    return tracemalloc.get_traced_memory()[0]
