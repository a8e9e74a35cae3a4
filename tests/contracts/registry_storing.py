"""What is stored comes back as it was, in any database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from server.domain.errors import AlreadyExists
from server.domain.registry.registered import VersionState
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import FailureReason
from server.domain.service.inference_service import ServiceKey
from server.ports import Registry
from tests.contracts import registry_things as things
from tests.contracts.registry_things import (
    FEW,
    deployment,
    environment,
    model,
    new_project,
    stored,
    version,
)

# One test of several classes, which keep nothing between examples.
few = settings(max_examples=FEW, suppress_health_check=[HealthCheck.differing_executors])


class StoringConformance:
    """Every field of everything, names that are taken, and what goes with what."""

    @few
    @given(things.models)
    async def test_a_model_comes_back_as_it_was_stored(
        self, registry: Registry, given: dict[str, Any]
    ) -> None:
        added = model(new_project(), **given)
        await stored(registry, added)
        assert await registry.read(lambda reading: reading.model(added.key)) == added

    @few
    @given(things.versions)
    async def test_a_version_comes_back_as_it_was_stored(
        self, registry: Registry, given: dict[str, Any]
    ) -> None:
        of = model(new_project())
        added = version(of, **given)
        await stored(registry, of, added)
        assert await registry.read(lambda reading: reading.version(added.key)) == added

    @few
    @given(things.environments)
    async def test_an_environment_comes_back_as_it_was_stored(
        self, registry: Registry, given: dict[str, Any]
    ) -> None:
        added = environment(new_project(), **given)
        await stored(registry, added)
        assert await registry.read(lambda reading: reading.environment(added.key)) == added

    @few
    @given(things.deployments)
    async def test_a_record_comes_back_as_it_was_stored(
        self, registry: Registry, given: dict[str, Any]
    ) -> None:
        added = deployment(new_project(), **given)
        await stored(registry, added)
        assert await registry.read(lambda reading: reading.deployment(added.id)) == added

    @few
    @given(things.deployments)
    async def test_a_record_that_is_replaced_comes_back_as_it_then_is(
        self, registry: Registry, given: dict[str, Any]
    ) -> None:
        added = deployment(new_project())
        await stored(registry, added)
        changed = replace(added, **given | {"create_time": added.create_time})
        await registry.write(lambda writing: writing.replace(changed))
        assert await registry.read(lambda reading: reading.deployment(added.id)) == changed

    async def test_what_no_database_stores_of_a_clusters_text_is_replaced(
        self, registry: Registry
    ) -> None:
        """It comes from a container's log, past every check."""
        failure = replace(
            failure_of(FailureReason.CRASH_LOOP, "a\0b"), log_lines=("\udcff", "fine")
        )
        added = deployment(new_project(), failure=failure, error_message="\0\ud800")
        await stored(registry, added)
        found = await registry.read(lambda reading: reading.deployment(added.id))
        assert found
        assert found.failure == replace(failure, message="a\ufffdb", log_lines=("?", "fine"))
        assert found.error_message == "\ufffd?"

    async def test_what_is_not_there_is_none(self, registry: Registry) -> None:
        absent = model(new_project())

        async def read(reading: Any) -> list[Any]:
            return [
                await reading.model(absent.key),
                await reading.version(version(absent).key),
                await reading.newest_ready_version(absent.key),
                await reading.environment(environment(absent.key.project).key),
                await reading.deployment(absent.id),
            ]

        assert await registry.read(read) == [None] * 5

    async def test_a_name_is_taken_once_and_what_else_was_done_stays_possible(
        self, registry: Registry
    ) -> None:
        project = new_project()
        first, second = model(project), model(project, "other")
        await stored(registry, first)

        async def work(writing: Any) -> None:
            with pytest.raises(AlreadyExists, match="fraud"):
                await writing.add(model(project))
            await writing.add(second)

        await registry.write(work)
        assert await registry.read(lambda reading: reading.model(first.key)) == first
        assert await registry.read(lambda reading: reading.model(second.key)) == second

    async def test_names_are_taken_within_their_project_and_their_model_only(
        self, registry: Registry
    ) -> None:
        here, there = model(new_project()), model(new_project())
        other = model(here.key.project, "other")
        await stored(registry, here, there, other, *map(version, (here, there, other)))
        await stored(registry, *(environment(of.key.project) for of in (here, there)))
        with pytest.raises(AlreadyExists):
            await stored(registry, version(here))
        with pytest.raises(AlreadyExists):
            await stored(registry, environment(here.key.project))

    async def test_a_models_versions_go_with_it_and_no_others(self, registry: Registry) -> None:
        gone, other = model(new_project()), model(new_project())
        lost, kept = version(gone), version(other)
        await stored(registry, gone, other, lost, kept)
        await registry.write(lambda writing: writing.remove(gone))
        assert await registry.read(lambda reading: reading.model(gone.key)) is None
        assert await registry.read(lambda reading: reading.version(lost.key)) is None
        assert await registry.read(lambda reading: reading.version(kept.key)) == kept

    async def test_the_newest_ready_version_is_the_one_that_was_added_last(
        self, registry: Registry
    ) -> None:
        of = model(new_project())
        added = [version(of, str(number)) for number in range(4)]
        added[1] = replace(added[1], create_time=things.NOW.replace(year=2050))
        added[3] = replace(added[3], state=VersionState.ARCHIVED)
        await stored(registry, of, *added)
        found = await registry.read(lambda reading: reading.newest_ready_version(of.key))
        assert found == added[2]

    async def test_open_records_are_those_without_an_end_oldest_first(
        self, registry: Registry
    ) -> None:
        project = new_project()
        key, other = ServiceKey(f"n-{project}", "a"), ServiceKey(f"n-{project}", "b")
        of_key = [deployment(project, service=key) for _ in range(3)]
        ended = deployment(project, service=key, end_time=things.NOW)
        of_other = deployment(project, service=other)
        await stored(registry, of_key[0], ended, *of_key[1:], of_other)
        assert await registry.read(lambda reading: reading.open_deployments(key)) == of_key
        everything = await registry.read(lambda reading: reading.open_deployments())
        ours = [each for each in everything if each.project == project]
        assert ours == [*of_key, of_other]

    async def test_what_uses_a_thing_is_what_was_made_from_it_and_has_no_end(
        self, registry: Registry
    ) -> None:
        of = model(new_project())
        first, place = version(of), environment(of.key.project)
        ids = {"model_id": of.id, "version_id": first.id, "environment_id": place.id}
        using = [deployment(of.key.project, **ids) for _ in range(3)]
        ended = deployment(of.key.project, **ids, end_time=things.NOW)
        await stored(registry, of, first, place, *using, ended, deployment(of.key.project))
        for thing in (of, first, place):
            found = await registry.read(lambda reading, thing=thing: reading.users(thing, 10))
            assert {each.id for each in found} == {each.id for each in using}
            few_of_them = await registry.read(lambda reading, thing=thing: reading.users(thing, 2))
            assert len(few_of_them) == 2
