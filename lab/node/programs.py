"""The node's programs with their flags, ports and signs of readiness."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from lab.network import Subnet
from lab.processes import Component, answers
from lab.site import Site

FOLDER = Path(__file__).parent
REGISTRY_PORT, KUBELET_HEALTH_PORT, PROXY_HEALTH_PORT = 5000, 10248, 10256
SOCKET = "/run/containerd/containerd.sock"

# Joins the control group $1 and the namespaces of the process in the file $2; stays one process.
_ENTER = (
    'echo $$ >"$1"; pid=$(cat "$2"); shift 2; exec nsenter --target "$pid" --mount --net -- "$@"'
)


class Programs:
    """The node's processes, defined and not yet started.

    `inside` holds the namespaces that the others enter, as they do the control group `cgroup`.
    Configurations are in `folder`; containerd's and the kubelet's in a folder of their name.
    """

    def __init__(self, site: Site, folder: Path, name: str, subnet: Subnet, cgroup: Path) -> None:
        self._site = site
        self._folder = folder
        self._name = name
        self._subnet = subnet
        self._cgroup = cgroup
        self.inside_pid = folder / "inside.pid"
        self.inside = self._inside()
        self.registry = self._registry()
        self.containerd = self._containerd()
        self.kubelet = self._kubelet()
        self.kube_proxy = self._kube_proxy()

    def _inside(self) -> Component:
        unshare = ["unshare", "--mount", "--net", "--propagation", "private"]
        return self._site.process(
            "inside",
            [*unshare, *_python(FOLDER / "inside.py"), self._folder],
            ready=self.inside_pid.exists,
        )

    def _registry(self) -> Component:
        node = self._subnet.node
        return self._entering(
            "registry",
            [*_python(FOLDER / "registry.py"), node, str(REGISTRY_PORT)],
            ready=lambda: answers(f"http://{node}:{REGISTRY_PORT}/token"),
        )

    def _containerd(self) -> Component:
        return self._entering(
            "containerd",
            ["containerd", "--config", self._folder / "containerd" / "config.toml"],
            ready=lambda: _listens(Path(f"/proc/{self.inside.pid}/root{SOCKET}")),
        )

    def _kubelet(self) -> Component:
        node = self._subnet.node
        return self._entering(
            "kubelet",
            [
                self._site.programs["kubelet"],
                f"--config={self._folder}/kubelet/config.json",
                f"--kubeconfig={self._site.kubeconfig('kubelet')}",
                f"--hostname-override={self._name}",
                f"--node-ip={node}",
            ],
            ready=lambda: answers(f"http://{node}:{KUBELET_HEALTH_PORT}/healthz"),
        )

    def _kube_proxy(self) -> Component:
        health = f"{self._subnet.node}:{PROXY_HEALTH_PORT}"
        return self._entering(
            "kube-proxy",
            [
                self._site.programs["kube-proxy"],
                f"--kubeconfig={self._site.kubeconfig('kube-proxy')}",
                f"--hostname-override={self._name}",
                "--proxy-mode=nftables",
                # What comes from elsewhere, as from this machine, is answered by way of the node.
                f"--cluster-cidr={self._subnet.pods}",
                f"--healthz-bind-address={health}",
                # These are the whole machine's.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ],
            ready=lambda: answers(f"http://{health}/healthz"),
        )

    def _entering(
        self, name: str, command: list[str | Path], ready: Callable[[], bool]
    ) -> Component:
        joined = self._cgroup / "cgroup.procs"
        enter: list[str | Path] = ["sh", "-ec", _ENTER, "sh", joined, self.inside_pid]
        return self._site.process(name, [*enter, *command], ready=ready)


def _python(program: Path) -> list[str | Path]:
    # Without the environment's packages: these programs need none, and start at once.
    return [sys.executable, "-I", "-S", program]


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
