"""Knative Serving's programs, with its ingress layer's stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from lab import network
from lab.cluster import Cluster, Manifest
from lab.network import Subnet
from lab.processes import STOP_GRACE, Component, accepts, wait_until
from lab.site import Site

from . import manifests

_INGRESS = Path(__file__).with_name("ingress.py")
_AUTOSCALER_PORT = 8080
# Each has one; the controller has no other.
_PROFILING_PORTS = {"webhook": 8008, "controller": 8009, "autoscaler": 8010}
_PORTS = _PROFILING_PORTS | {"webhook": manifests.WEBHOOK_PORT, "autoscaler": _AUTOSCALER_PORT}


class Connected(Protocol):
    """A node that is reached through this subnet; `inside_pid` will have the pid of a process in
    its network."""

    subnet: Subnet
    inside_pid: Path


class KnativeServing:
    """Knative Serving, defined and not yet started; see `install`.

    Its programs are on the node's network: their ports are fixed, and nothing else is within their
    reach. `webhook`, `controller`, `autoscaler` and `ingress` can each be stopped, started, frozen
    and thawed.
    """

    def __init__(self, site: Site, node: Connected) -> None:
        self._site = site
        self._address = node.subnet.node
        self._network = node.inside_pid
        # It answers for 45 s more, to those who have not heard yet: nobody, here.
        self.webhook = self._program("webhook", "--disable-ha", stop_grace=0.5)
        self.controller = self._program("controller", "--disable-ha")
        self.autoscaler = self._program("autoscaler")
        self.ingress = self._ingress()
        self.clients = [self.webhook, self.controller, self.autoscaler, self.ingress]

    def install(self, cluster: Cluster) -> None:
        """Have it at work on this cluster."""
        source = manifests.Source()
        webhooks = source.webhooks()
        cluster.apply(manifests.namespace())
        cluster.apply_crds(source.crds())
        cluster.apply_all(source.configuration())
        cluster.apply_all(manifests.webhook_service(self._address))
        cluster.apply_all(manifests.activator(self._address))
        cluster.apply_all(webhooks)
        self.launch()
        for client in self.clients:
            client.wait_ready()
        paths = list(map(cluster.path_of, webhooks))
        wait_until(
            lambda: all(_has_certificate(cluster.get(path)) for path in paths),
            "Knative's webhooks can be called",
        )

    def launch(self) -> None:
        """Start its programs without waiting, again after they were stopped."""
        for client in self.clients:
            client.launch()

    def stop(self) -> None:
        """Stop its programs."""
        for client in reversed(self.clients):
            client.stop()

    def _program(self, name: str, *flags: str, stop_grace: float = STOP_GRACE) -> Component:
        full_name = f"knative-{name}"
        return self._site.process(
            full_name,
            network.entering(self._network, [self._site.programs[full_name], *flags]),
            ready=lambda: accepts(_PORTS[name], self._address),
            env={
                "KUBECONFIG": str(self._site.kubeconfig(full_name)),
                "SYSTEM_NAMESPACE": manifests.NAMESPACE,
                "CONFIG_LOGGING_NAME": "config-logging",
                "CONFIG_OBSERVABILITY_NAME": "config-observability",
                "CONFIG_LEADERELECTION_NAME": "config-leader-election",
                "POD_NAME": full_name,
                "POD_IP": self._address,
                "WEBHOOK_NAME": "webhook",
                "WEBHOOK_PORT": str(manifests.WEBHOOK_PORT),
                "PROFILING_PORT": str(_PROFILING_PORTS[name]),
            },
            stop_grace=stop_grace,
        )

    def _ingress(self) -> Component:
        name = "knative-ingress"
        program = [sys.executable, "-I", "-S", _INGRESS, self._site.kubeconfig(name)]
        # What was asked for before it looks is not lost: there is nothing to wait for.
        return self._site.process(name, program, ready=lambda: True)


def _has_certificate(configuration: Manifest) -> bool:
    return all(webhook["clientConfig"].get("caBundle") for webhook in configuration["webhooks"])
