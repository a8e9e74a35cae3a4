"""The cluster that the tests here run on: a lab with KServe in Knative mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lab import Lab, booted_lab, build_lab, check_lab
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
def knative_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A lab with Knative Serving for all tests here."""
    booted = partial(booted_lab, mode="knative")
    yield from lab_for_tests(booted, request, tmp_path_factory)


@pytest.fixture(scope="package")
def lab(knative_lab: Lab) -> Lab:
    """What the shared fixtures and tests ask for."""
    return knative_lab


@pytest.fixture(scope="package")
def cluster(knative_lab: Lab) -> Lab:
    """What the shared fixtures and tests ask for."""
    return knative_lab


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, _of_the_lab(items), _reason)


def pytest_collection_finish(session: pytest.Session) -> None:
    build_before(session, _of_the_lab(session.items), partial(build_lab, mode="knative"))


def _of_the_lab(items: list[pytest.Item]) -> list[pytest.Item]:
    here = Path(__file__).parent
    return [item for item in items if here in item.path.parents and needs("knative_lab", item)]


def _reason() -> str | None:
    if OTHER_CLUSTER:
        return "they need the lab, and MODELSERVICE_TEST_KUBECONFIG names another cluster"
    return unmet(partial(check_lab, "knative"))
