"""Rollout after rollout while predictions of a second are under way."""

from __future__ import annotations

import time

from server.adapters.local.timeouts import Timeouts
from tests.adapters.local.load import Load, load
from tests.adapters.local.world import World, eventually, servers_of

ROLLOUTS = 5


async def test_five_rollouts_lose_no_request_of_a_second(world: World) -> None:
    service = await world.ready(world.model("0", predict_seconds=1))
    async with load(service.status.url, callers=4) as under:
        await _answers_from(under, "1")
        for number in range(1, 1 + ROLLOUTS):
            begun = time.monotonic()
            await world.ready(world.model(str(number), predict_seconds=1))
            # The old one's answers are to requests that it had before the other was READY.
            await _answers_from(under, str(number))
            await _answers_from(under, str(number + 1))
            await eventually("the end of the old one", lambda: len(servers_of(world)) == 1)
            assert time.monotonic() - begun < Timeouts().drain.total_seconds(), "it was cut off"
    assert under.failed == []
    assert set(under.served) == {str(number) for number in range(1, 2 + ROLLOUTS)}


async def _answers_from(under: Load, generation: str) -> None:
    """Until there is another answer of this generation."""
    before = under.served.get(generation, 0)
    await eventually("another answer", lambda: under.served.get(generation, 0) > before)
