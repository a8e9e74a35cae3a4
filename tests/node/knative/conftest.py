"""The cluster that the tests here run on: the lab with a real node, KServe in Knative mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lab import NodeLab, booted_node_lab, build_node_lab
from tests.cluster.fixtures import lab_for_tests, namespace, replica, replicas, server, stub
from tests.cluster.requirements import build_before

__all__ = ["namespace", "replica", "replicas", "server", "stub"]


@pytest.fixture(scope="package")
def node_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeLab]:
    """A lab with a real node and Knative Serving for all tests here."""
    booted = partial(booted_node_lab, mode="knative")
    yield from lab_for_tests(booted, request, tmp_path_factory)


@pytest.fixture(scope="package")
def cluster(node_lab: NodeLab) -> NodeLab:
    """What the shared fixtures ask for."""
    return node_lab


def pytest_collection_finish(session: pytest.Session) -> None:
    here = Path(__file__).parent
    wanted = [item for item in session.items if here in item.path.parents]
    build_before(session, wanted, partial(build_node_lab, mode="knative"))
