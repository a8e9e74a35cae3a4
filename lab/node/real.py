"""A node as it really is: containerd, kubelet and kube-proxy in namespaces of their own."""

from __future__ import annotations

from pathlib import Path

from lab import network
from lab.cluster import Cluster
from lab.credentials import write_loopback_certificate
from lab.site import Site

from . import cgroups, containerd, kubelet, store
from .programs import KUBELET_HEALTH_PORT, REGISTRY_PORT, Programs


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
        self._cgroup = site.folder.name
        joined = cgroups.programs(self._cgroup)
        self.programs = Programs(site, self._folder, self.name, self.subnet, joined)
        self.clients = [self.programs.kubelet, self.programs.kube_proxy]
        self.inside_pid = self.programs.inside_pid

    def prepare(self) -> None:
        """Make the namespaces and the wire, start containerd."""
        for folder in cgroups.branches(self._cgroup):
            self._site.sweeper.tell(f"cgroup {folder}")
        cgroups.make(self._cgroup)
        self.subnet.address()
        self.programs.inside.start()
        self.subnet.connect(self.programs.inside.pid)
        write_loopback_certificate(self._certificates)
        self._write_configurations()
        store.attach(self._images, self._folder / "var/lib/containerd", self.programs.inside.pid)
        self.programs.registry.launch()
        self.programs.containerd.start()

    def launch(self, _cluster: Cluster) -> None:
        """Start kubelet and kube-proxy without waiting."""
        for client in self.clients:
            client.launch()

    def wait_ready(self) -> None:
        """Return once everything is healthy."""
        for component in (self.programs.registry, *self.clients):
            component.wait_ready()

    def stop(self) -> None:
        """Stop its programs; what still runs of the pods is left to the sweeper."""
        programs = self.programs
        for component in (*self.clients, programs.containerd, programs.registry, programs.inside):
            component.stop()

    def import_image(self, archive: Path) -> None:
        """Give it one image more. Raises ComponentFailed."""
        store.add(archive, self.programs.inside.pid)

    def _write_configurations(self) -> None:
        registry = f"http://{self.subnet.node}:{REGISTRY_PORT}"
        containerd.write_configuration(self._folder / "containerd", self.subnet.pods, registry)
        kubelet.write_configuration(
            self._folder / "kubelet",
            address=self.subnet.node,
            health_port=KUBELET_HEALTH_PORT,
            client_ca=self._certificates / "tls.crt",
            cgroup=f"/{self._cgroup}",
        )
