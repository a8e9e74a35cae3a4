"""Transactions of any database: whole or not at all, one after the other, on every replica."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.domain.errors import AlreadyExists
from server.domain.service.inference_service import ServiceKey
from server.ports import Registry
from tests.contracts.registry_things import (
    deployment,
    environment,
    model,
    new_project,
    stored,
    version,
)
from tests.patience import PATIENCE_SECONDS


class Oops(Exception):
    """What work raises."""


class TransactionConformance:
    """`other` is a second process on the same database."""

    async def test_work_that_raises_leaves_nothing(self, registry: Registry) -> None:
        added = model(new_project())

        async def work(writing: Any) -> None:
            await writing.add(added)
            raise Oops

        with pytest.raises(Oops):
            await registry.write(work)
        assert await registry.read(lambda reading: reading.model(added.key)) is None

    async def test_a_write_that_is_cancelled_leaves_nothing_and_keeps_nobody_waiting(
        self, registry: Registry, other: Registry
    ) -> None:
        added, begun = model(new_project()), asyncio.Event()

        async def work(writing: Any) -> None:
            await writing.add(added)
            begun.set()
            await asyncio.Event().wait()

        writing = asyncio.create_task(registry.write(work))
        await begun.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await asyncio.wait_for(stored(other, added), PATIENCE_SECONDS)

    async def test_callers_that_leave_at_any_moment_keep_nobody_waiting(
        self, registry: Registry, other: Registry
    ) -> None:
        """Also twice, as at a deadline and then at the end of the connection."""
        counted = environment(new_project(), description="0")
        await stored(registry, counted)

        async def count(writing: Any) -> None:
            found = await writing.environment(counted.key)
            await writing.replace(replace(found, description=str(int(found.description) + 1)))

        for step in range(60):
            calls = [
                asyncio.create_task(registry.write(count)),
                asyncio.create_task(other.write(count)),
                asyncio.create_task(registry.read(lambda reading: reading.open_deployments())),
            ]
            for _ in range(2):
                await asyncio.sleep(step * 0.0001)
                for call in calls:
                    call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        for each in (registry, other):
            await asyncio.wait_for(each.write(count), PATIENCE_SECONDS)

    async def test_reading_sees_one_state_whatever_is_written_meanwhile(
        self, registry: Registry, other: Registry
    ) -> None:
        project = new_project()
        first = model(project)

        async def read_twice(reading: Any) -> list[int]:
            before = await reading.models(project, 10, None)
            await stored(other, first)
            return [len(before.items), len((await reading.models(project, 10, None)).items)]

        assert await registry.read(read_twice) == [0, 0]
        assert await registry.read(lambda reading: reading.model(first.key)) == first

    async def test_what_is_written_is_read_by_everybody_at_once(
        self, registry: Registry, other: Registry
    ) -> None:
        for number in range(20):
            added = model(new_project(), f"m{number}")
            await stored(registry, added)
            assert await other.read(lambda reading, key=added.key: reading.model(key)) == added

    async def test_concurrent_changes_of_one_thing_are_all_in_it(
        self, registry: Registry, other: Registry
    ) -> None:
        counted = environment(new_project(), description="0")
        await stored(registry, counted)

        async def count(writing: Any) -> None:
            found = await writing.environment(counted.key)
            await writing.replace(replace(found, description=str(int(found.description) + 1)))

        await asyncio.gather(*(each.write(count) for each in (registry, other) * 20))
        found = await registry.read(lambda reading: reading.environment(counted.key))
        assert found
        assert found.description == "40"

    async def test_of_concurrent_adds_of_one_name_one_is_stored(
        self, registry: Registry, other: Registry
    ) -> None:
        project = new_project()
        adds = [stored(each, model(project)) for each in (registry, other) * 5]
        outcomes = await asyncio.gather(*adds, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, AlreadyExists)]
        assert len(refused) == 9
        assert outcomes.count(None) == 1

    async def test_open_records_of_a_service_stay_as_they_are_read(
        self, registry: Registry, other: Registry
    ) -> None:
        """Also none at all: of many that add one where there is none, one does."""
        project = new_project()
        key = ServiceKey("n", project)

        async def add_the_only_one(writing: Any) -> bool:
            if await writing.open_deployments(key):
                return False
            await writing.add(deployment(project, service=key))
            return True

        added = await asyncio.gather(
            *(each.write(add_the_only_one) for each in (registry, other) * 10)
        )
        assert sum(added) == 1

    async def test_transactions_that_lock_crosswise_are_both_done(
        self, registry: Registry, other: Registry
    ) -> None:
        project = new_project()
        things = (
            environment(project, "a", description="0"),
            environment(project, "b", description="0"),
        )
        await stored(registry, *things)

        async def count_both(writing: Any, first: int) -> None:
            for index in (first, 1 - first):
                found = await writing.environment(things[index].key)
                await asyncio.sleep(0.02)
                await writing.replace(replace(found, description=str(int(found.description) + 1)))

        await asyncio.gather(
            registry.write(lambda writing: count_both(writing, 0)),
            other.write(lambda writing: count_both(writing, 1)),
        )
        for thing in things:
            found = await registry.read(lambda reading, key=thing.key: reading.environment(key))
            assert found
            assert found.description == "2"

    async def test_a_model_that_is_removed_is_not_deployed_from_at_the_same_time(
        self, registry: Registry, other: Registry
    ) -> None:
        """Whoever comes first: a model in use is there, and one that is gone is not in use."""
        for _ in range(20):
            of = model(new_project())
            await stored(registry, of, version(of))
            outcomes = await asyncio.gather(
                registry.write(lambda writing, of=of: _removed(writing, of)),
                other.write(lambda writing, of=of: _deployed(writing, of)),
            )
            assert outcomes in ([True, False], [False, True])

    async def test_now_is_the_databases_time_and_moves_on(self, registry: Registry) -> None:
        async def twice(reading: Any) -> tuple[datetime, datetime]:
            first = await reading.now()
            await asyncio.sleep(0.002)
            return first, await reading.now()

        for moments in (await registry.read(twice), await registry.write(twice)):
            assert moments[0] < moments[1]
            assert abs(moments[1] - datetime.now(UTC)) < timedelta(minutes=1)


class LeaseConformance:
    """One leads at a time, by the database's clock."""

    async def test_one_of_two_leads_until_its_term_is_over(
        self, registry: Registry, other: Registry
    ) -> None:
        assert await registry.lead("a", timedelta(minutes=1))
        assert not await other.lead("b", timedelta(seconds=1))
        # Its term is that of its last word.
        assert await registry.lead("a", timedelta(seconds=0.3))
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not await other.lead("b", timedelta(minutes=1)):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        assert not await registry.lead("a", timedelta(seconds=1))
        await other.resign("b")

    async def test_who_resigns_lets_another_lead_at_once(
        self, registry: Registry, other: Registry
    ) -> None:
        assert await registry.lead("a", timedelta(minutes=1))
        await other.resign("b")
        assert not await other.lead("b", timedelta(minutes=1))
        await registry.resign("a")
        assert await other.lead("b", timedelta(minutes=1))
        await other.resign("b")

    async def test_a_lease_from_before_the_clock_was_turned_back_keeps_nobody_from_leading(
        self, registry: Registry, other: Registry
    ) -> None:
        assert await registry.lead("killed an hour from now", timedelta(hours=1))
        assert await other.lead("b", timedelta(minutes=1))
        assert not await registry.lead("a", timedelta(minutes=1))
        await other.resign("b")

    async def test_of_many_that_would_lead_one_does(
        self, registry: Registry, other: Registry
    ) -> None:
        wanted = [
            each.lead(f"{number}", timedelta(minutes=1))
            for number, each in enumerate((registry, other) * 10)
        ]
        assert sum(await asyncio.gather(*wanted)) == 1
        await asyncio.gather(*(registry.resign(f"{number}") for number in range(20)))


async def _removed(writing: Any, of: Any) -> bool:
    found = await writing.model(of.key)
    if await writing.users(found, 1):
        return False
    await writing.remove(found)
    return True


async def _deployed(writing: Any, of: Any) -> bool:
    found = await writing.model(of.key)
    if found is None:
        return False
    await writing.add(deployment(of.key.project, model_id=of.id))
    return True
