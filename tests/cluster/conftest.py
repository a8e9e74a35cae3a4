"""The cluster that the tests here run on: a lab, or the one of MODELSERVICE_TEST_KUBECONFIG."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from .interference import Link
from .lab import BuildFailed, Cluster, Lab, booted_lab, builds
from .serving import Replicas, Server, install, serving

OTHER_CLUSTER = os.environ.get("MODELSERVICE_TEST_KUBECONFIG")

left_out = pytest.StashKey[dict[str, int]]()


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab for the whole session. For tests that stop its components, read its audit log, or
    use its users; all others ask for `cluster`."""
    with booted_lab(_say_to(request.config)) as lab:
        yield lab
        if request.session.testsfailed:
            kept = tmp_path_factory.mktemp("lab") / "logs"
            shutil.copytree(lab.logs, kept)
            _say_to(request.config)(f"the lab's logs: {kept}")


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster with KServe."""
    if OTHER_CLUSTER:
        yield Cluster(Path(OTHER_CLUSTER).expanduser(), tmp_path_factory.mktemp("cluster"))
    else:
        yield request.getfixturevalue("lab")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The name of a namespace made for one test."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.apply(manifest)
    yield name
    cluster.delete(manifest)


@pytest.fixture(scope="session")
def replicas(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Servers with exactly the rights of k8s/ (on a cluster that is not the lab: with those of its
    kubeconfig, since nothing is installed there)."""
    kubeconfig = install(cluster) if isinstance(cluster, Lab) else cluster.kubeconfig
    with serving(kubeconfig, tmp_path_factory.mktemp("servers")) as replicas:
        yield replicas
        if request.session.testsfailed:
            _say_to(request.config)(f"the servers' logs: {replicas.folder}")


@pytest.fixture(scope="session")
def server(replicas: Replicas) -> Server:
    """The server that tests share; who stops it or looks at its process takes `replica`."""
    return replicas.start()


@pytest.fixture(scope="session")
def stub(server: Server) -> ModelServiceStub:
    return server.stub


class StartReplica(Protocol):
    def __call__(
        self, env: Mapping[str, str] | None = None, *, kubeconfig: Path | None = None
    ) -> Server: ...


@pytest.fixture
def replica(replicas: Replicas) -> Iterator[StartReplica]:
    """Starts a server of one's own, as often as it is called; stopped after the test."""
    started: list[Server] = []

    def start(env: Mapping[str, str] | None = None, *, kubeconfig: Path | None = None) -> Server:
        started.append(replicas.make(env, kubeconfig=kubeconfig))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def link(lab: Lab, replicas: Replicas) -> Iterator[Link]:
    """A relay to the API server that can be disturbed."""
    link = Link(lab, replicas.kubeconfig, replicas.folder)
    yield link
    link.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here, except in CI, where that is an error."""
    counts: dict[str, int] = {}
    config.stash[left_out] = counts
    for item in items:
        reason = _cannot_run(item)
        if reason and os.environ.get("CI") == "true":
            raise pytest.UsageError(f"CI=true, and {item.nodeid} cannot run: {reason}")
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
            counts[reason] = counts.get(reason, 0) + 1


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test, whose time limit is not meant for builds."""
    wanted = any(_needs_lab(item) and not _cannot_run(item) for item in session.items)
    if wanted and not session.config.option.collectonly:
        try:
            builds.programs(
                (*builds.CONTROL_PLANE, *builds.SIMULATED_NODE), _say_to(session.config)
            )
        except BuildFailed as error:
            raise pytest.UsageError(str(error)) from error


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for reason, count in config.stash.get(left_out, {}).items():
        terminalreporter.write_line(f"left out: {count} cluster tests, since {reason}")


def _needs_lab(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "lab" in names or ("cluster" in names and not OTHER_CLUSTER)


def _cannot_run(item: pytest.Item) -> str | None:
    if not _needs_lab(item):
        return None
    if OTHER_CLUSTER:
        return "they need the lab, and MODELSERVICE_TEST_KUBECONFIG names another cluster"
    return _no_go()


@cache
def _no_go() -> str | None:
    try:
        builds.check_go()
    except BuildFailed as error:
        return str(error)
    return None


def _say_to(config: pytest.Config) -> builds.Say:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.write_line if reporter else print
