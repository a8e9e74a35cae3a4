"""The control plane's programs with their flags, ports and signs of readiness."""

from __future__ import annotations

from . import kserve
from .processes import Component, accepts, answers
from .site import Site


class Components:
    """The control plane's processes, defined and not yet started.

    The API server listens on `address`. `server` is its URL, `webhook_port` the port of KServe's
    admission webhooks.
    """

    def __init__(
        self, site: Site, address: str, apiserver: list[str], controller_manager: list[str]
    ) -> None:
        self._site = site
        self.webhook_port = site.ports.next()
        self.etcd = self._etcd()
        self.apiserver = self._apiserver(address, apiserver)
        self.controller_manager = self._controller_manager(controller_manager)
        self.scheduler = self._scheduler()
        self.kserve_manager = self._kserve_manager()

    def _etcd(self) -> Component:
        self._etcd_url = f"http://127.0.0.1:{self._site.ports.next()}"
        peers = f"http://127.0.0.1:{self._site.ports.next()}"
        return self._site.component(
            "etcd",
            f"--data-dir={self._site.folder}/etcd",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=error",
            ready=lambda: answers(f"{self._etcd_url}/health"),
        )

    def _apiserver(self, address: str, flags: list[str]) -> Component:
        port = self._site.ports.next()
        folder = self._site.folder
        self.server = f"https://{address}:{port}"
        return self._site.component(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            f"--secure-port={port}",
            f"--bind-address={address}",
            f"--advertise-address={address}",
            f"--cert-dir={folder}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/sa.key",
            f"--service-account-signing-key-file={folder}/sa.key",
            f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            f"--audit-policy-file={folder}/audit-policy.json",
            f"--audit-log-path={folder}/audit.log",
            # In megabytes; a log that is rotated away could not be read by a test.
            "--audit-log-maxsize=2000",
            *flags,
            ready=lambda: answers(f"{self.server}/readyz"),
        )

    def _controller_manager(self, flags: list[str]) -> Component:
        port = self._site.ports.next()
        folder = self._site.folder
        return self._site.component(
            "kube-controller-manager",
            f"--kubeconfig={self._site.kubeconfig('kube-controller-manager')}",
            f"--service-account-private-key-file={folder}/sa.key",
            f"--root-ca-file={folder}/apiserver.crt",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            # It misses a volume that comes just before its claim until it looks again.
            "--pvclaimbinder-sync-period=1s",
            *flags,
            ready=lambda: answers(f"https://127.0.0.1:{port}/healthz"),
        )

    def _scheduler(self) -> Component:
        port = self._site.ports.next()
        return self._site.component(
            "kube-scheduler",
            f"--kubeconfig={self._site.kubeconfig('kube-scheduler')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            ready=lambda: answers(f"https://127.0.0.1:{port}/healthz"),
        )

    def _kserve_manager(self) -> Component:
        metrics, health = self._site.ports.next(), self._site.ports.next()
        return self._site.component(
            "kserve-manager",
            f"--webhook-port={self.webhook_port}",
            f"--metrics-addr=127.0.0.1:{metrics}",
            f"--health-probe-addr=127.0.0.1:{health}",
            ready=lambda: (
                answers(f"http://127.0.0.1:{health}/readyz") and accepts(self.webhook_port)
            ),
            env={
                "POD_NAMESPACE": kserve.NAMESPACE,
                "KUBECONFIG": str(self._site.kubeconfig("kserve-manager")),
                "TMPDIR": f"{self._site.folder}/tmp",
            },
        )
