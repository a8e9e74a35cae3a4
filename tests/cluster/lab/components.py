"""The lab's programs with their flags, ports and signs of readiness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from . import kserve
from .processes import Component, Ports, Sweeper, accepts, answers


class Components:
    """The lab's processes, defined and not yet started; their files are below `folder`.

    `programs` has the path of each program by name. `server` is the API server's URL,
    `webhook_port` the port of KServe's admission webhooks.
    """

    def __init__(self, folder: Path, programs: Mapping[str, Path], sweeper: Sweeper) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self._folder = folder
        self._programs = programs
        self._sweeper = sweeper
        self._ports = Ports()
        self.webhook_port = self._ports.next()
        self.etcd = self._etcd()
        self.apiserver = self._apiserver()
        self.controller_manager = self._controller_manager()
        self.scheduler = self._scheduler()
        self.kwok = self._kwok()
        self.kserve_manager = self._kserve_manager()

    def in_order(self) -> list[Component]:
        """In the order in which they start."""
        return [
            self.etcd,
            self.apiserver,
            self.controller_manager,
            self.scheduler,
            self.kwok,
            self.kserve_manager,
        ]

    def stop(self) -> None:
        """Stop everything, last started first, and give up the ports."""
        for component in reversed(self.in_order()):
            component.stop()
        self._ports.close()

    def _component(
        self,
        name: str,
        *flags: str,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
    ) -> Component:
        return Component(
            name,
            [self._programs[name], *flags],
            logs=self.logs,
            sweeper=self._sweeper,
            ready=ready,
            env=env,
        )

    def _etcd(self) -> Component:
        self._etcd_url = f"http://127.0.0.1:{self._ports.next()}"
        peers = f"http://127.0.0.1:{self._ports.next()}"
        return self._component(
            "etcd",
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=error",
            ready=lambda: answers(f"{self._etcd_url}/health"),
        )

    def _apiserver(self) -> Component:
        port = self._ports.next()
        self.server = f"https://127.0.0.1:{port}"
        return self._component(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={self._folder}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder}/sa.key",
            f"--service-account-signing-key-file={self._folder}/sa.key",
            f"--token-auth-file={self._folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            f"--audit-policy-file={self._folder}/audit-policy.json",
            f"--audit-log-path={self._folder}/audit.log",
            # In megabytes; a log that is rotated away could not be read by a test.
            "--audit-log-maxsize=2000",
            ready=lambda: answers(f"{self.server}/readyz"),
        )

    def _controller_manager(self) -> Component:
        port = self._ports.next()
        return self._component(
            "kube-controller-manager",
            f"--kubeconfig={self._folder}/kube-controller-manager.kubeconfig",
            f"--service-account-private-key-file={self._folder}/sa.key",
            f"--root-ca-file={self._folder}/apiserver.crt",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            # The node's lease cannot be renewed while a test has the API server stopped.
            "--node-monitor-grace-period=600s",
            ready=lambda: answers(f"https://127.0.0.1:{port}/healthz"),
        )

    def _scheduler(self) -> Component:
        port = self._ports.next()
        return self._component(
            "kube-scheduler",
            f"--kubeconfig={self._folder}/kube-scheduler.kubeconfig",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            ready=lambda: answers(f"https://127.0.0.1:{port}/healthz"),
        )

    def _kwok(self) -> Component:
        port = self._ports.next()
        return self._component(
            "kwok",
            f"--kubeconfig={self._folder}/kwok.kubeconfig",
            f"--config={self._folder}/stages.yaml",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{port}",
            ready=lambda: answers(f"http://127.0.0.1:{port}/healthz"),
        )

    def _kserve_manager(self) -> Component:
        metrics, health = self._ports.next(), self._ports.next()
        return self._component(
            "kserve-manager",
            f"--webhook-port={self.webhook_port}",
            f"--metrics-addr=127.0.0.1:{metrics}",
            f"--health-probe-addr=127.0.0.1:{health}",
            ready=lambda: (
                answers(f"http://127.0.0.1:{health}/readyz") and accepts(self.webhook_port)
            ),
            env={
                "POD_NAMESPACE": kserve.NAMESPACE,
                "KUBECONFIG": f"{self._folder}/kserve-manager.kubeconfig",
                "TMPDIR": f"{self._folder}/tmp",
            },
        )
