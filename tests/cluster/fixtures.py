"""Fixtures for tests on any `cluster`, a fixture of the folder that imports these.

Each folder has servers of its own; they end, as its cluster does, with its last test.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab, builds

from .requirements import say_to
from .serving import Replicas, Server, install, serving

L = TypeVar("L", bound=Lab)


def lab_for_tests(
    booted: Callable[[builds.Say], AbstractContextManager[L]],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[L]:
    """The lab of a fixture; where a test has failed, its logs are kept, and it is said where."""
    say = say_to(request.config)
    with booted(say) as lab:
        yield lab
        if request.session.testsfailed:
            kept = tmp_path_factory.mktemp(str(request.fixturename)) / "logs"
            shutil.copytree(lab.logs, kept)
            say(f"the lab's logs: {kept}")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The name of a namespace made for one test."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.apply(manifest)
    yield name
    cluster.delete(manifest)


@pytest.fixture(scope="package")
def replicas(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Servers with exactly the rights of k8s/ (on a cluster that is not the lab: with those of its
    kubeconfig, since nothing is installed there)."""
    kubeconfig = install(cluster) if isinstance(cluster, Lab) else cluster.kubeconfig
    with serving(kubeconfig, tmp_path_factory.mktemp("servers")) as replicas:
        yield replicas
        if request.session.testsfailed:
            say_to(request.config)(f"the servers' logs: {replicas.folder}")


@pytest.fixture(scope="package")
def server(replicas: Replicas) -> Server:
    """The server that tests share; who stops it or looks at its process takes `replica`."""
    return replicas.start()


@pytest.fixture(scope="package")
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
