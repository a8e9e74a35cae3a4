"""A node as it really is: containerd, kubelet and kube-proxy in namespaces of their own."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cluster.lab.builds import Say
from tests.cluster.lab.cluster import Cluster
from tests.cluster.lab.credentials import write_loopback_certificate
from tests.cluster.lab.processes import Component, answers
from tests.cluster.lab.site import Site

from . import cgroups, containerd, kubelet, network, store

FOLDER = Path(__file__).parent
REGISTRY_PORT, KUBELET_HEALTH_PORT, PROXY_HEALTH_PORT = 5000, 10248, 10256

# Joins the control group $1 and the namespaces of the process in the file $2; stays one process.
_ENTER = (
    'echo $$ >"$1"; pid=$(cat "$2"); shift 2; exec nsenter --target "$pid" --mount --net -- "$@"'
)


class RealNode:
    """A kubelet on this machine's kernel, that pods really run on.

    It is in mount and network namespaces of its own and reaches this machine by one wire, `subnet`:
    pods, Services and the API server reach each other, this machine reaches them all, and nothing
    else is within reach. `images` is a store of store.py.
    """

    name = "lab-node"

    def __init__(self, site: Site, images: Path) -> None:
        self._site = site
        self._images = images
        self._folder = site.folder / "node"
        self._folder.mkdir()
        self.subnet = network.claim()
        site.sweeper.tell(f"link {self.subnet.link}")
        self.address = self.subnet.host
        self._certificates = site.folder / "kubelet-client"
        self.apiserver_flags = [
            f"--service-cluster-ip-range={self.subnet.services}",
            f"--kubelet-client-certificate={self._certificates}/tls.crt",
            f"--kubelet-client-key={self._certificates}/tls.key",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        # Seven renewals of the lease: a busy machine misses one or two.
        self.controller_manager_flags = [
            f"--node-monitor-grace-period={7 * kubelet.LEASE_SECONDS // 4}s",
            "--node-monitor-period=2s",
        ]
        self._containerd_folder = self._folder / "containerd"
        self._cgroup = site.folder.name
        self._define()

    def prepare(self, _say: Say) -> None:
        """Make the namespaces and the wire, start containerd."""
        for folder in cgroups.branches(self._cgroup):
            self._site.sweeper.tell(f"cgroup {folder}")
        cgroups.make(self._cgroup)
        self.subnet.address()
        self.inside.start()
        self.subnet.connect(self.inside.pid)
        write_loopback_certificate(self._certificates)
        self._write_configurations()
        store.attach(self._images, self._folder / "var/lib/containerd", self.inside.pid)
        self.registry.launch()
        self.containerd.start()

    def launch(self, _cluster: Cluster) -> None:
        """Start kubelet and kube-proxy without waiting."""
        for client in self.clients:
            client.launch()

    def wait_ready(self) -> None:
        """Return once everything is healthy."""
        for component in (self.registry, *self.clients):
            component.wait_ready()

    def stop(self) -> None:
        """Stop its programs; what still runs of the pods is left to the sweeper."""
        for component in (*self.clients, self.containerd, self.registry, self.inside):
            component.stop()

    def import_image(self, archive: Path) -> None:
        """Give it one image more. Raises ComponentFailed."""
        store.add(archive, self.inside.pid)

    def _define(self) -> None:
        node = self.subnet.node
        holder = ["unshare", "--mount", "--net", "--propagation", "private"]
        self.inside = self._site.process(
            "inside",
            [*holder, *_python(FOLDER / "inside.py"), self._folder],
            ready=(self._folder / "inside.pid").exists,
        )
        self.registry = self._entering(
            "registry",
            [*_python(FOLDER / "registry.py"), node, str(REGISTRY_PORT)],
            ready=lambda: answers(f"http://{node}:{REGISTRY_PORT}/token"),
        )
        self.containerd = self._entering(
            "containerd",
            ["containerd", "--config", self._containerd_folder / "config.toml"],
            ready=lambda: _listens(self._seen("/run/containerd/containerd.sock")),
        )
        self.kubelet = self._entering(
            "kubelet",
            [
                self._site.programs["kubelet"],
                f"--config={self._folder}/kubelet/config.json",
                f"--kubeconfig={self._site.kubeconfig('kubelet')}",
                f"--hostname-override={self.name}",
                f"--node-ip={node}",
            ],
            ready=lambda: answers(f"http://{node}:{KUBELET_HEALTH_PORT}/healthz"),
        )
        self.kube_proxy = self._entering(
            "kube-proxy",
            [
                self._site.programs["kube-proxy"],
                f"--kubeconfig={self._site.kubeconfig('kube-proxy')}",
                f"--hostname-override={self.name}",
                "--proxy-mode=nftables",
                # What comes from elsewhere, as from this machine, is answered by way of the node.
                f"--cluster-cidr={self.subnet.pods}",
                f"--healthz-bind-address={node}:{PROXY_HEALTH_PORT}",
                # These are the whole machine's.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ],
            ready=lambda: answers(f"http://{node}:{PROXY_HEALTH_PORT}/healthz"),
        )
        self.clients = [self.kubelet, self.kube_proxy]

    def _entering(
        self, name: str, command: list[str | Path], ready: Callable[[], bool]
    ) -> Component:
        group = cgroups.programs(self._cgroup) / "cgroup.procs"
        enter: list[str | Path] = ["sh", "-ec", _ENTER, "sh", group, self._folder / "inside.pid"]
        return self._site.process(name, [*enter, *command], ready=ready)

    def _seen(self, path: str) -> Path:
        """A path of the node, as this machine can see it."""
        return Path(f"/proc/{self.inside.pid}/root{path}")

    def _write_configurations(self) -> None:
        registry = f"http://{self.subnet.node}:{REGISTRY_PORT}"
        containerd.write_configuration(self._containerd_folder, self.subnet.pods, registry)
        kubelet.write_configuration(
            self._folder / "kubelet",
            address=self.subnet.node,
            health_port=KUBELET_HEALTH_PORT,
            client_ca=self._certificates / "tls.crt",
            cgroup=f"/{self._cgroup}",
        )


def _python(program: Path) -> list[str | Path]:
    # Without the environment's packages: these programs need none, and start at once.
    return [sys.executable, "-I", "-S", program]


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
