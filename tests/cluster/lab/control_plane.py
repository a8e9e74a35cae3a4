"""The lab: a KServe control plane booted on 127.0.0.1 from its own programs."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kubernetes.client.exceptions import ApiException

from . import builds, kserve, kwok
from .audit import AUDIT_POLICY, AuditEntry, read_audit
from .builds import Say
from .cluster import Cluster, Manifest
from .components import Components
from .credentials import write_kubeconfig, write_loopback_certificate, write_private_key
from .processes import Sweeper, wait_until

ADMIN = "admin"
# Each acts under a name of its own, so that the audit log tells them and the tests apart.
CONTROLLERS = ("kube-controller-manager", "kube-scheduler", "kwok", "kserve-manager")
UNPRIVILEGED = ("alice", "bob")


class Lab(Cluster):
    """A KServe control plane on this machine; see `booted_lab`.

    `apiserver`, `kserve_manager` and the others in `components` can each be stopped, started,
    frozen and thawed. `tokens` has a bearer token for every user: `admin`, and `alice` and `bob`,
    who may do nothing until a role is bound to them. `programs` has the path of `kubectl`,
    `grpcurl` and the rest.
    """

    def __init__(self, folder: Path, programs: Mapping[str, Path], sweeper: Sweeper) -> None:
        super().__init__(folder / f"{ADMIN}.kubeconfig", folder)
        self.programs = programs
        self.tokens = {
            user: secrets.token_urlsafe(24) for user in (ADMIN, *CONTROLLERS, *UNPRIVILEGED)
        }
        self.kserve_source = builds.module_source("kserve", "github.com/kserve/kserve")
        self.components = Components(folder, programs, sweeper)
        self.logs = self.components.logs
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
            self._apply_all(self._webhooks())

    def restart_controllers(self) -> None:
        """Have the cluster work again at once after the API server was away.

        Its clients have then backed off, for up to a minute; restarted, they try at once.
        """
        controllers = self.components.in_order()[2:]
        for component in controllers:
            component.stop()
        # A new KWOK would wait until the lease of the one before has run out.
        with suppress(ApiException):
            self.request("DELETE", kwok.LEASE_PATH)
        for component in controllers:
            component.launch()
        for component in controllers:
            component.wait_ready()

    def boot(self, say: Say) -> None:
        """Start everything in order; `say` gets a line for each step."""
        with _timed("etcd and the API server", say):
            self._write_server_files()
            self.components.etcd.start()
            self.apiserver.start()
            self._write_kubeconfigs()
        with _timed("controller manager, scheduler and a simulated node", say):
            self._start_node()
        with _timed("KServe's resources", say):
            self._apply_all(kserve.namespaces())
            self._apply_all([kserve.configuration(self.kserve_source)])
            self._apply_crds()
            self._apply_all(kserve.runtimes(self.kserve_source))
        with _timed("KServe's controller", say):
            self.kserve_manager.start()
            self._apply_all(self._webhooks())
            self.components.controller_manager.wait_ready()
            self.components.scheduler.wait_ready()
            wait_until(self._node_is_ready, "the node is Ready")

    def _start_node(self) -> None:
        self.components.controller_manager.launch()
        self.components.scheduler.launch()
        self.apply(kwok.node())
        kwok.write_stages(
            builds.module_source("kwok", "sigs.k8s.io/kwok"), self.folder / "stages.yaml"
        )
        self.components.kwok.launch()

    def _apply_all(self, manifests: list[Manifest]) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(self.apply, manifests))

    def _apply_crds(self) -> None:
        crds = kserve.crds(self.kserve_source)
        self._apply_all(crds)
        # A controller that starts before its kinds are served ends at once.
        wait_until(lambda: all(map(self._serves, crds)), "KServe's resources are served")

    def _serves(self, crd: Manifest) -> bool:
        spec = crd["spec"]
        versions = [version["name"] for version in spec["versions"] if version["served"]]
        kinds = [(f"{spec['group']}/{version}", spec["names"]["kind"]) for version in versions]
        return all(self.knows(*kind) for kind in kinds)

    def _webhooks(self) -> list[Manifest]:
        return kserve.webhooks(self.kserve_source, self.components.webhook_port, self._certificate)

    def _node_is_ready(self) -> bool:
        status = self.get(f"/api/v1/nodes/{kwok.NODE}").get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        return conditions.get("Ready") == "True"

    def _write_kubeconfigs(self) -> None:
        ca = (self.folder / "apiserver.crt").read_bytes()
        for user in (ADMIN, *CONTROLLERS):
            path = self.folder / f"{user}.kubeconfig"
            write_kubeconfig(path, server=self.components.server, ca=ca, token=self.tokens[user])

    def _write_server_files(self) -> None:
        write_private_key(self.folder / "sa.key")
        self._certificate = write_loopback_certificate(
            self.folder / "tmp" / "k8s-webhook-server" / "serving-certs"
        )
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        masters = [f'{self.tokens[u]},{u},{u},"system:masters"' for u in (ADMIN, *CONTROLLERS)]
        others = [f"{self.tokens[u]},{u},{u}" for u in UNPRIVILEGED]
        (self.folder / "tokens.csv").write_text("\n".join(masters + others) + "\n")


@contextmanager
def booted_lab(say: Say = print) -> Iterator[Lab]:
    """A lab that is ready for use, built first where that is needed; nothing of it is left after.

    Raises BuildFailed or ComponentFailed; where the boot fails its folder, with a log for each
    component, is kept and told.
    """
    programs = builds.programs(say)
    folder = Path(tempfile.mkdtemp(prefix="modelservice-lab-"))
    with ExitStack() as stack:
        sweeper = Sweeper(folder)
        stack.callback(sweeper.close)
        lab = Lab(folder, programs, sweeper)
        stack.callback(lab.components.stop)
        try:
            lab.boot(say)
        except Exception:
            sweeper.tell("keep")
            say(f"the boot failed; the logs are in {lab.logs}")
            raise
        yield lab


@contextmanager
def _timed(step: str, say: Say) -> Iterator[None]:
    began = time.monotonic()
    yield
    say(f"{step}: {time.monotonic() - began:.1f} s")
