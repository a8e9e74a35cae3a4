"""The clusters that the tests here run on: labs with an earlier release of KServe.

A test names its releases: `@pytest.mark.parametrize("release_lab", ["0.15"], indirect=True)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lab import Lab, booted_lab, build_lab, builds
from tests.cluster.fixtures import lab_for_tests, namespace, replica, replicas, server, stub
from tests.cluster.requirements import (
    OTHER_CLUSTER,
    build_before,
    leave_out,
    needs,
    pytest_terminal_summary,
    unmet,
)

__all__ = ["namespace", "pytest_terminal_summary", "replica", "replicas", "server", "stub"]


@pytest.fixture(scope="package")
def release_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A lab with the release of KServe that the test names."""
    yield from lab_for_tests(partial(booted_lab, kserve=request.param), request, tmp_path_factory)


@pytest.fixture(scope="package")
def lab(release_lab: Lab) -> Lab:
    """What the shared fixtures and tests ask for."""
    return release_lab


@pytest.fixture(scope="package")
def cluster(release_lab: Lab) -> Lab:
    """What the shared fixtures and tests ask for."""
    return release_lab


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, _of_the_labs(items), _reason)


def pytest_collection_finish(session: pytest.Session) -> None:
    items = _of_the_labs(session.items)
    for kserve in sorted({item.callspec.params["release_lab"] for item in items}):
        wanted = [item for item in items if item.callspec.params["release_lab"] == kserve]
        build_before(session, wanted, partial(build_lab, kserve=kserve))


def _of_the_labs(items: list[pytest.Item]) -> list[pytest.Function]:
    here = Path(__file__).parent
    return [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and here in item.path.parents
        and needs("release_lab", item)
    ]


def _reason() -> str | None:
    if OTHER_CLUSTER:
        return "they need the lab, and MODELSERVICE_TEST_KUBECONFIG names another cluster"
    return unmet(builds.check_go)
