"""Whatever happens in whatever order, a feed never goes back and always ends with the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import ServiceError
from server.domain.service.commands import Delete, Deploy
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from tests.contracts.world import Changed, Follower, Gone, Synced, following
from tests.memory_cluster.cluster import MemoryCluster

KEYS = [ServiceKey("a", "x"), ServiceKey("b", "y")]
Step = Callable[[MemoryCluster, MemoryCluster, ServiceKey, int], Awaitable[object]]


async def _deploy(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    spec = InferenceServiceSpec(ContainerPredictor(f"x:{n % 3}"))
    await (one, other)[n % 2].apply(Deploy(key, spec))


async def _delete(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    await (one, other)[n % 2].delete(Delete(key))


async def _finish(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    service = await other.read(key)
    if service and service.delete_time:
        other.finish_delete(key)


async def _turn(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    for _ in range(n % 4):
        await asyncio.sleep(0)


async def _away(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    one.away()


async def _back(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    one.back()


async def _hold(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    one.hold_feed()


async def _release(one: MemoryCluster, other: MemoryCluster, key: ServiceKey, n: int) -> None:
    one.release_feed()


_steps = st.lists(
    st.tuples(
        st.sampled_from([_deploy, _deploy, _delete, _finish, _turn, _away, _back, _hold, _release]),
        st.sampled_from(KEYS),
        st.integers(0, 11),
    ),
    max_size=40,
)


@given(_steps)
def test_a_history_goes_forward_and_ends_with_what_is_stored(
    steps: list[tuple[Step, ServiceKey, int]],
) -> None:
    asyncio.run(_run(steps))


async def _run(steps: list[tuple[Step, ServiceKey, int]]) -> None:
    one = MemoryCluster()
    other = MemoryCluster(one.store)
    async with following(one) as told:
        for step, key, number in steps:
            try:
                await step(one, other, key, number)
            except ServiceError:
                continue
        one.back()
        one.release_feed()
        for key in KEYS:
            await told.until("the end", lambda k=key: told.latest(k) == one.store.service(k))
    assert sum(isinstance(event, Synced) for event in told.events) == 1
    for key in KEYS:
        _check_history(told, key)


def _check_history(told: Follower, key: ServiceKey) -> None:
    """Of one uid generations only grow; a new uid comes only after the old one went, for ever."""
    present: InferenceService | None = None
    gone: set[str] = set()
    for change in told.history(key):
        if isinstance(change, Gone):
            assert present is None or change.uid == present.uid
            assert change.uid not in gone
            gone.add(change.uid)
            present = None
            continue
        assert change.uid not in gone
        if present is not None:
            assert change.uid == present.uid
            assert change.generation >= present.generation
        present = change


def test_what_comes_and_goes_between_two_turns_is_never_told() -> None:
    async def run() -> None:
        cluster = MemoryCluster()
        other = MemoryCluster(cluster.store)
        async with following(cluster) as told:
            await other.apply(Deploy(KEYS[0], InferenceServiceSpec(ContainerPredictor("x"))))
            await other.delete(Delete(KEYS[0]))
            other.finish_delete(KEYS[0])
            await other.apply(Deploy(KEYS[1], InferenceServiceSpec(ContainerPredictor("x"))))
            await told.until("the other", lambda: told.latest(KEYS[1]))
        assert not [e for e in told.events if isinstance(e, Changed) and e.service.key == KEYS[0]]

    asyncio.run(run())
