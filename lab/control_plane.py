"""The lab: a KServe control plane booted from its own programs."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from kubernetes.client.exceptions import ApiException

from . import builds, kserve
from .audit import AUDIT_POLICY, AuditEntry, read_audit
from .builds import NEWEST_KSERVE, KServe, Mode, Say
from .cluster import Cluster, Manifest
from .components import Components
from .credentials import write_kubeconfig, write_loopback_certificate, write_private_key
from .knative import ConnectedNode, KnativeServing, check_knative
from .kwok import SimulatedNode
from .processes import Component, Sweeper, wait_until
from .site import Site

ADMIN = "admin"
# Each acts under a name of its own, so that the audit log tells them and the tests apart.
CONTROLLERS = ("kube-controller-manager", "kube-scheduler", "kserve-manager")
UNPRIVILEGED = ("alice", "bob")

SomeLab = TypeVar("SomeLab", bound="Lab")


class Node(Protocol):
    """The machine that a lab's pods run on.

    `clients` are those of its programs that talk to the API server, each as a user of its own of
    the same name. The API server listens on `address`, and gets `apiserver_flags`.
    """

    name: str
    address: str
    apiserver_flags: list[str]
    controller_manager_flags: list[str]
    clients: list[Component]

    def prepare(self) -> None:
        """Start what does not need the API server, and what that needs."""

    def launch(self, cluster: Cluster) -> None:
        """Start `clients` without waiting, again after they were stopped."""

    def wait_ready(self) -> None:
        """Return once pods can start, as far as its own programs can tell."""

    def stop(self) -> None:
        """Stop all of its programs."""


class Lab(Cluster):
    """A KServe control plane on this machine; see `booted_lab`.

    `apiserver`, `kserve_manager` and the others in `components` can each be stopped, started,
    frozen and thawed. `tokens` has a bearer token for every user: `admin`, and `alice` and `bob`,
    who may do nothing until a role is bound to them. `programs` has the path of `kubectl`,
    `grpcurl` and the rest. `kserve` is KServe's release. In its Knative mode `knative` is Knative
    Serving, else None.
    """

    def __init__(
        self,
        site: Site,
        node: Node,
        knative: KnativeServing | None = None,
        kserve: KServe = NEWEST_KSERVE,
    ) -> None:
        super().__init__(site.kubeconfig(ADMIN), site.folder)
        self.node = node
        self.knative = knative
        self.mode: Mode = "knative" if knative else "standard"
        self.kserve = kserve
        clients = [*node.clients, *(knative.clients if knative else [])]
        self.programs = site.programs
        self.logs = site.logs
        self.site = site
        self._masters = (ADMIN, *CONTROLLERS, *(client.name for client in clients))
        self.tokens = {user: secrets.token_urlsafe(24) for user in (*self._masters, *UNPRIVILEGED)}
        self.kserve_source = builds.module_source(
            builds.kserve_module(kserve).name, "github.com/kserve/kserve"
        )
        self.components = Components(
            site, node.address, node.apiserver_flags, node.controller_manager_flags
        )
        self.apiserver = self.components.apiserver
        self.kserve_manager = self.components.kserve_manager

    def audit(self, user: str | None = None) -> list[AuditEntry]:
        """The requests that the API server has answered so far, oldest first.

        With `user`, only those of this user name.
        """
        entries = read_audit(self.folder / "audit.log", user or "")
        return [entry for entry in entries if user in (None, entry.user)]

    @contextmanager
    def kserve_stopped(self) -> Iterator[None]:
        """Without KServe's controller and its webhooks: objects are stored as they are written."""
        self.kserve_manager.stop()
        for webhook in self._webhooks():
            self.delete(webhook)
        try:
            yield
        finally:
            self.kserve_manager.start()
            self.apply_all(self._webhooks())

    def restart_controllers(self) -> None:
        """Have the cluster work again at once after the API server was away.

        Its clients have then backed off, for up to a minute; restarted, they try at once.
        """
        for component in reversed(self._controllers()):
            component.stop()
        self._launch_controllers()
        if self.knative:
            self.knative.launch()
        self.kserve_manager.launch()
        for component in self._controllers():
            component.wait_ready()

    def boot(self, say: Say) -> None:
        """Start everything in order; `say` gets a line for each step."""
        with timed("what the node needs first", say):
            self.node.prepare()
        with timed("etcd and the API server", say):
            self._write_server_files()
            self.components.etcd.start()
            self.apiserver.start()
            self._write_kubeconfigs()
        with timed("controller manager, scheduler and node, launched", say):
            self._launch_controllers()
        with timed("KServe's resources", say):
            self.apply_all(kserve.namespaces())
            self.apply(kserve.configuration(self.kserve_source, self.mode, self.kserve))
            self.apply_crds(kserve.crds(self.kserve_source))
            self.apply_all(kserve.runtimes(self.kserve_source))
        if self.knative:
            with timed("Knative Serving", say):
                self.knative.install(self)
        with timed("KServe's controller", say):
            self.kserve_manager.start()
            self.apply_all(self._webhooks())
            self.components.controller_manager.wait_ready()
            self.components.scheduler.wait_ready()
        with timed("the node is Ready", say):
            self.node.wait_ready()
            wait_until(self.node_is_ready, "the node is Ready")
            # Every pod has one, and the controller manager makes it in its own time.
            accounts = "/api/v1/namespaces/default/serviceaccounts"
            wait_until(lambda: self.get(accounts)["items"], "there is a service account")

    def stop(self) -> None:
        """Stop everything, last started first; what cannot be stopped keeps nothing else going."""
        parts = self.components
        with ExitStack() as stopping:
            for part in (parts.etcd, self.apiserver, parts.controller_manager, parts.scheduler):
                stopping.callback(part.stop)
            stopping.callback(self.node.stop)
            if self.knative:
                stopping.callback(self.knative.stop)
            stopping.callback(self.kserve_manager.stop)

    def node_is_ready(self) -> bool:
        """Whether the API server says so; False while there is no such node."""
        try:
            status = self.get(f"/api/v1/nodes/{self.node.name}").get("status", {})
        except ApiException as error:
            if error.status != 404:
                raise
            return False
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        return conditions.get("Ready") == "True"

    def _controllers(self) -> list[Component]:
        return [
            self.components.controller_manager,
            self.components.scheduler,
            *self.node.clients,
            *(self.knative.clients if self.knative else []),
            self.kserve_manager,
        ]

    def _launch_controllers(self) -> None:
        self.components.controller_manager.launch()
        self.components.scheduler.launch()
        self.node.launch(self)

    def _webhooks(self) -> list[Manifest]:
        return kserve.webhooks(self.kserve_source, self.components.webhook_port, self._certificate)

    def _write_kubeconfigs(self) -> None:
        ca = (self.folder / "apiserver.crt").read_bytes()
        for user in self._masters:
            path = self.site.kubeconfig(user)
            write_kubeconfig(path, server=self.components.server, ca=ca, token=self.tokens[user])

    def _write_server_files(self) -> None:
        write_private_key(self.folder / "sa.key")
        self._certificate = write_loopback_certificate(
            self.folder / "tmp" / "k8s-webhook-server" / "serving-certs"
        )
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        masters = [f'{self.tokens[u]},{u},{u},"system:masters"' for u in self._masters]
        others = [f"{self.tokens[u]},{u},{u}" for u in UNPRIVILEGED]
        (self.folder / "tokens.csv").write_text("\n".join(masters + others) + "\n")


def check_lab(mode: Mode = "standard") -> None:
    """Raise BuildFailed where a lab with a simulated node can not be, or not be built."""
    if mode == "knative":
        check_knative()
    builds.check_go()


def build_lab(say: Say, mode: Mode = "standard", kserve: KServe = NEWEST_KSERVE) -> dict[str, Path]:
    """The programs of a lab with a simulated node, built where missing. Raises BuildFailed."""
    check_lab(mode)
    return builds.programs((*builds.control_plane(mode, kserve), *builds.SIMULATED_NODE), say)


@contextmanager
def booted_lab(
    say: Say = print, mode: Mode = "standard", kserve: KServe = NEWEST_KSERVE
) -> Iterator[Lab]:
    """A lab that is ready for use, built first where that is needed; nothing of it is left after.

    Its node is simulated, KServe of this release and in this mode (`knative` needs Linux and root).
    Raises BuildFailed or ComponentFailed; where the boot fails its folder, with a log for each
    component, is kept and told.
    """
    programs = build_lab(say, mode, kserve)
    with new_site(programs) as site, booted(_simulated(site, mode, kserve), say) as lab:
        yield lab


def _simulated(site: Site, mode: Mode, kserve: KServe) -> Lab:
    if mode == "standard":
        return Lab(site, SimulatedNode(site), kserve=kserve)
    node = ConnectedNode(site)
    return Lab(site, node, KnativeServing(site, node), kserve)


@contextmanager
def new_site(programs: Mapping[str, Path]) -> Iterator[Site]:
    """A place for a lab, swept up at the end whatever becomes of this process."""
    folder = Path(tempfile.mkdtemp(prefix="modelservice-lab-"))
    sweeper = Sweeper(folder)
    site = Site(folder, programs, sweeper)
    try:
        yield site
    finally:
        site.ports.close()
        sweeper.close()


@contextmanager
def booted(lab: SomeLab, say: Say) -> Iterator[SomeLab]:
    """The lab once it is ready for use; stopped at the end."""
    try:
        try:
            lab.boot(say)
        except Exception:
            lab.site.sweeper.tell("keep")
            say(f"the boot failed; the logs are in {lab.logs}")
            raise
        yield lab
    finally:
        lab.stop()


@contextmanager
def timed(step: str, say: Say) -> Iterator[None]:
    """Tell how long the block took."""
    began = time.monotonic()
    yield
    say(f"{step}: {time.monotonic() - began:.1f} s")
