"""The cluster that the tests here run on: the lab with a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lab import NodeLab, booted_node_lab, build_node_lab, check_node_lab
from tests.cluster.fixtures import lab_for_tests, namespace, replica, replicas, server, stub
from tests.cluster.requirements import (
    OTHER_CLUSTER,
    build_before,
    leave_out,
    needs,
    pytest_terminal_summary,
    unmet,
)

from . import server_image

__all__ = ["namespace", "pytest_terminal_summary", "replica", "replicas", "server", "stub"]


@pytest.fixture(scope="package")
def node_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeLab]:
    """A lab with a real node for all tests here, each of which has a namespace of its own."""
    yield from lab_for_tests(booted_node_lab, request, tmp_path_factory)


@pytest.fixture(scope="package")
def cluster(node_lab: NodeLab) -> NodeLab:
    """What the shared fixtures ask for."""
    return node_lab


@pytest.fixture(scope="session")
def server_archive() -> Iterator[Path]:
    """An archive of our own image, built as docs/operations.md says."""
    with TemporaryDirectory() as folder:
        yield server_image.build(Path(folder))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Last of all, when the other lab has ended: the two would share this machine's memory."""
    leave_out(config, _of_the_node(items), _reason)
    items.sort(key=_needs_node)


def pytest_collection_finish(session: pytest.Session) -> None:
    build_before(session, _of_the_node(session.items), build_node_lab)


def _of_the_node(items: list[pytest.Item]) -> list[pytest.Item]:
    return list(filter(_needs_node, items))


def _needs_node(item: pytest.Item) -> bool:
    return needs("node_lab", item)


def _reason() -> str | None:
    if OTHER_CLUSTER:
        return "they need a node of their own, and MODELSERVICE_TEST_KUBECONFIG names a cluster"
    return unmet(check_node_lab)
