"""Listings of any database: newest first, by pages, narrowed by filters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from server.domain.registry.deployment import DeploymentFilter, DeploymentState, ModelDeployment
from server.domain.service.inference_service import ServiceKey
from server.ports import Page, Registry
from tests.contracts.registry_storing import few
from tests.contracts.registry_things import (
    NOW,
    deployment,
    environment,
    model,
    moments_around,
    new_project,
    stored,
    version,
)

_some = st.sampled_from(["", "a", "b"])
_names = st.sampled_from(["a", "b"])
_records = st.lists(
    st.fixed_dictionaries(
        {
            "model": _names,
            "version": _names,
            "environment": _names,
            "service": st.builds(ServiceKey, _names, _names),
            "state": st.sampled_from(DeploymentState),
            "create_time": moments_around(NOW),
        }
    ),
    max_size=12,
)
_filters = st.fixed_dictionaries(
    {
        "model": _some,
        "version": _some,
        "environment": _some,
        "namespace": _some,
        "service": _some,
        "states": st.frozensets(st.sampled_from(DeploymentState), max_size=3),
        "created_after": st.none() | moments_around(NOW),
        "created_before": st.none() | moments_around(NOW),
    }
)
_NO_FILTER: dict[str, Any] = {}


class ListingConformance:
    """Every item once, in order, whatever the pages."""

    async def test_each_kind_is_listed_newest_first(self, registry: Registry) -> None:
        project = new_project()
        models = [model(project, name) for name in "abc"]
        versions = [version(models[0], name) for name in "123"]
        environments = [environment(project, name) for name in "abc"]
        await stored(registry, *models, *versions, *environments, model(new_project()))

        async def read(reading: Any) -> list[Page[Any]]:
            return [
                await reading.models(project, 10, None),
                await reading.versions(models[0].key, 10, None),
                await reading.environments(project, 10, None),
            ]

        pages = await registry.read(read)
        assert [page.items for page in pages] == [
            models[::-1],
            versions[::-1],
            environments[::-1],
        ]

    async def test_later_is_newer_whatever_the_order_of_adding(self, registry: Registry) -> None:
        project = new_project()
        later = [
            environment(project, name, create_time=NOW + timedelta(microseconds=steps))
            for name, steps in (("c", 2), ("a", 0), ("b", 1))
        ]
        await stored(registry, *later)
        page = await registry.read(lambda reading: reading.environments(project, 10, None))
        assert [item.key.name for item in page.items] == ["c", "b", "a"]

    @few
    @given(_records, _filters, st.integers(3, 9))
    @example(
        [{"create_time": NOW + timedelta(microseconds=n % 2)} for n in range(4)], _NO_FILTER, 3
    )
    async def test_the_pages_of_a_filtered_listing_are_what_it_finds(
        self,
        registry: Registry,
        given: Sequence[dict[str, Any]],
        narrowed: dict[str, Any],
        size: int,
    ) -> None:
        project = new_project()
        records = [deployment(project, **each) for each in given]
        await stored(registry, *records, deployment(new_project()))
        wanted = DeploymentFilter(project, **narrowed)
        found = await _all(
            size,
            lambda position: registry.read(
                lambda reading: reading.deployments(wanted, size, position)
            ),
        )
        assert sorted(_ids(found)) == sorted(
            _ids(record for record in records if _fits(record, wanted))
        )
        times = [record.create_time for record in found]
        assert times == sorted(times, reverse=True)

    async def test_a_page_begins_at_any_item_of_another(self, registry: Registry) -> None:
        project = new_project()
        await stored(registry, *(model(project, f"m{number}") for number in range(5)))
        whole = await registry.read(lambda reading: reading.models(project, 5, None))
        assert len(whole.positions) == 5
        for index, position in enumerate(whole.positions):
            page = await registry.read(
                lambda reading, position=position: reading.models(project, 2, position)
            )
            assert page.items == whole.items[index : index + 2]

    async def test_what_comes_and_goes_meanwhile_neither_repeats_nor_hides_the_rest(
        self, registry: Registry
    ) -> None:
        project = new_project()
        first = [environment(project, name) for name in "abcd"]
        await stored(registry, *first)
        page = await registry.read(lambda reading: reading.environments(project, 2, None))
        assert page.items == [first[3], first[2]]
        await registry.write(lambda writing: writing.remove(first[1]))
        await stored(registry, environment(project, "e"))
        rest = await registry.read(
            lambda reading: reading.environments(project, 2, page.positions[2])
        )
        assert rest.items == [first[0]]
        assert len(rest.positions) == 1

    async def test_any_position_of_a_token_is_answered(self, registry: Registry) -> None:
        project = new_project()
        await stored(registry, model(project))
        for position, found in ((0, 0), (2**63 - 1, 1)):
            page = await registry.read(
                lambda reading, position=position: reading.models(project, 5, position)
            )
            assert len(page.items) == found

    async def test_times_beyond_all_that_is_stored_find_all_or_nothing(
        self, registry: Registry
    ) -> None:
        project = new_project()
        await stored(registry, deployment(project))
        ancient, far = NOW.replace(year=1), NOW.replace(year=9999)
        for narrowed, found in (
            ({"created_after": ancient}, 1),
            ({"created_before": far}, 1),
            ({"created_after": far}, 0),
            ({"created_before": ancient}, 0),
        ):
            wanted = DeploymentFilter(project, **narrowed)
            page = await registry.read(
                lambda reading, wanted=wanted: reading.deployments(wanted, 5, None)
            )
            assert len(page.items) == found


async def _all(size: int, page_from: Callable[[int | None], Awaitable[Page[Any]]]) -> list[Any]:
    items: list[Any] = []
    page = await page_from(None)
    while len(page.positions) > size:
        items += page.items
        assert len(page.items) == size
        page = await page_from(page.positions[size])
    return [*items, *page.items]


def _ids(records: Any) -> list[str]:
    return [record.id for record in records]


def _fits(record: ModelDeployment, wanted: DeploymentFilter) -> bool:
    return (
        wanted.model in ("", record.model)
        and wanted.version in ("", record.version)
        and wanted.environment in ("", record.environment)
        and wanted.namespace in ("", record.service.namespace)
        and wanted.service in ("", record.service.name)
        and (not wanted.states or record.state in wanted.states)
        and (wanted.created_after is None or record.create_time > wanted.created_after)
        and (wanted.created_before is None or record.create_time < wanted.created_before)
    )
