"""The cluster that the tests here run on: a lab, or the one of MODELSERVICE_TEST_KUBECONFIG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Cluster, Lab, booted_lab, build_lab, builds

from .fixtures import lab_for_tests, namespace, replica, replicas, server, stub
from .interference import Link
from .requirements import (
    OTHER_CLUSTER,
    build_before,
    leave_out,
    needs,
    pytest_terminal_summary,
    say_to,
    unmet,
)
from .scheduling import LabScheduling
from .serving import Replicas

__all__ = ["namespace", "pytest_terminal_summary", "replica", "replicas", "server", "stub"]


@pytest.fixture(scope="package")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab for all tests here. For tests that stop its components, read its audit log, or use
    its users; all others ask for `cluster`."""
    yield from lab_for_tests(booted_lab, request, tmp_path_factory)


@pytest.fixture(scope="package")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster with KServe."""
    if OTHER_CLUSTER:
        yield Cluster(Path(OTHER_CLUSTER).expanduser(), tmp_path_factory.mktemp("cluster"))
    else:
        yield request.getfixturevalue("lab")


@pytest.fixture(scope="session")
def built_grpcurl(request: pytest.FixtureRequest) -> Path:
    """The lab's grpcurl, without a lab."""
    return builds.programs(builds.CONTROL_PLANE, say_to(request.config))["grpcurl"]


@pytest.fixture
def link(lab: Lab, replicas: Replicas) -> Iterator[Link]:
    """A relay to the API server that can be disturbed."""
    link = Link(lab, replicas.kubeconfig, replicas.folder)
    yield link
    link.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LabScheduling:
    return LabScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, _of_the_lab(items), _reason)


def pytest_collection_finish(session: pytest.Session) -> None:
    build_before(session, _of_the_lab(session.items), build_lab)


def _of_the_lab(items: list[pytest.Item]) -> list[pytest.Item]:
    return list(filter(_needs_lab, items))


def _needs_lab(item: pytest.Item) -> bool:
    here = Path(__file__).parent in item.path.parents
    needed = needs("lab", item) or (needs("cluster", item) and not OTHER_CLUSTER)
    needed = needed or needs("built_kubectl", item) or needs("built_grpcurl", item)
    others = ("knative_lab", "release_lab")  # of the folders below
    return here and needed and not any(needs(lab, item) for lab in others)


def _reason() -> str | None:
    if OTHER_CLUSTER:
        return "they need the lab, and MODELSERVICE_TEST_KUBECONFIG names another cluster"
    return unmet(builds.check_go)
