"""The server as a real process, with exactly the rights that k8s/ gives it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import split

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import model_service_pb2_grpc, rollout_service_pb2_grpc

from lab import Component, Lab
from lab.port_blocks import PortBlock
from lab.processes import Sweeper
from tests.transcript import transcript

from .kubectl import kubectl

ROOT = Path(__file__).parents[2]
SERVICE_ACCOUNT, NAMESPACE = "modelservice", "modelservice"
SERVER_USER = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"

STOP_SECONDS = 60.0  # until a server that is told to end is killed
# A server that is not there yet is asked again at once, not after gRPC's second and more.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


def install(lab: Lab) -> Path:
    """Apply k8s/overlays/standard-all-namespaces to the lab, whose tests make namespaces of their
    own; a kubeconfig of the server's ServiceAccount."""
    overlay = str(ROOT / "k8s/overlays/standard-all-namespaces")
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", overlay)
    return lab.kubeconfig_for(SERVICE_ACCOUNT, NAMESPACE)


def make_room_for_knative(lab: Lab) -> None:
    """Delete what k8s/overlays/standard has under the name that k8s/overlays/knative takes, as
    docs/operations.md shows it."""
    delete, _apply = transcript("docs/operations.md", "As a Knative Service")
    kubectl(lab, *split(delete.command)[1:], "--cascade=foreground", "--ignore-not-found")


class Server(Component):
    """One `python -m server` on a port of its own; `start` returns once it is SERVING.

    It may be stopped or killed and started again: same address, same log. `channel`, `stub` and
    `health` are for blocking calls from any thread.
    """

    def __init__(
        self,
        name: str,
        *,
        program: str,
        kubeconfig: Path,
        folder: Path,
        sweeper: Sweeper,
        env: Mapping[str, str],
    ) -> None:
        self._ports = PortBlock()
        self.address = f"127.0.0.1:{self._ports.next()}"
        settings = {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}",
            "KSERVE_ENABLED": "true",
            "KUBERNETES_KUBECONFIG": str(kubeconfig),
            "MODELSERVICE_LISTEN": self.address,
            # Nobody else calls it, so that nothing is gained by waiting.
            "MODELSERVICE_STOP_DELAY": "0",
        }
        super().__init__(
            name,
            [sys.executable, "-m", program],
            logs=folder,
            sweeper=sweeper,
            ready=self.is_serving,
            env=settings | dict(env),
        )
        self.channel = grpc.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
        self.stub = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.rollouts = rollout_service_pb2_grpc.RolloutServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def is_serving(self, service: str = "") -> bool:
        """Whether health says SERVING of this service; False while nothing answers."""
        try:
            answer = self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Stop it for good."""
        self.channel.close()
        self.stop(STOP_SECONDS)
        self._ports.close()


class Replicas:
    """Starts servers on one cluster, that act with `kubeconfig`; see `serving`."""

    def __init__(self, kubeconfig: Path, folder: Path, sweeper: Sweeper) -> None:
        self.folder = folder
        self.kubeconfig = kubeconfig
        self._sweeper = sweeper
        self._servers: list[Server] = []

    def start(
        self, env: Mapping[str, str] | None = None, *, kubeconfig: Path | None = None
    ) -> Server:
        """A server that is SERVING, with these settings on top. Raises ComponentFailed."""
        server = self.make(env, kubeconfig=kubeconfig)
        server.start()
        return server

    def make(
        self,
        env: Mapping[str, str] | None = None,
        *,
        kubeconfig: Path | None = None,
        program: str = "server",
    ) -> Server:
        """A server that is not started, for tests of the start itself; `program` is another module
        to run in its place."""
        server = Server(
            f"server-{len(self._servers) + 1}",
            program=program,
            kubeconfig=kubeconfig or self.kubeconfig,
            folder=self.folder,
            sweeper=self._sweeper,
            env=env or {},
        )
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Stop all that still run."""
        for server in self._servers:
            server.close()


@contextmanager
def serving(kubeconfig: Path, folder: Path) -> Iterator[Replicas]:
    """Servers that act with `kubeconfig`; their logs stay in `folder`, nothing else is left."""
    sweeper = Sweeper(folder)
    sweeper.tell("keep")
    replicas = Replicas(kubeconfig, folder, sweeper)
    try:
        yield replicas
    finally:
        replicas.close()
        sweeper.close()
