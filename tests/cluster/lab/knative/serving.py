"""Knative Serving's programs, with its ingress layer's stand-in."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.cluster.lab import network
from tests.cluster.lab.cluster import Cluster, Manifest
from tests.cluster.lab.network import Subnet
from tests.cluster.lab.processes import Component, wait_until
from tests.cluster.lab.site import Site

from . import manifests

_INGRESS = Path(__file__).with_name("ingress.py")


class Connected(Protocol):
    """A node that is reached through this subnet; `inside` is a process in its network."""

    subnet: Subnet
    inside: Component


class KnativeServing:
    """Knative Serving, defined and not yet started; see `install`.

    Its programs are on the node's network: their ports are fixed, and nothing else is within their
    reach. `webhook`, `controller`, `autoscaler` and `ingress` can each be stopped, started, frozen
    and thawed.
    """

    def __init__(self, site: Site, node: Connected) -> None:
        self._site = site
        self._address = node.subnet.node
        self._network = site.folder / "node" / "inside.pid"
        self._profiling_ports = itertools.count(8008)
        self.webhook = self._program("webhook", "--disable-ha", ready=lambda: True)
        self.controller = self._program("controller", "--disable-ha", ready=lambda: True)
        self.autoscaler = self._program("autoscaler", ready=lambda: True)
        self.ingress = self._ingress()
        self.clients = [self.webhook, self.controller, self.autoscaler, self.ingress]

    def install(self, cluster: Cluster) -> None:
        """Have it at work on this cluster."""
        source = manifests.Source()
        cluster.apply(manifests.namespace())
        cluster.apply_crds(source.crds())
        webhooks = source.webhooks()
        cluster.apply_all(
            [
                *source.configuration(),
                *manifests.webhook_service(self._address),
                *manifests.activator(self._address),
                *webhooks,
            ]
        )
        self.launch()
        for webhook in webhooks:
            path = cluster.path_of(webhook)
            wait_until(
                lambda path=path: _has_certificate(cluster.get(path)), f"{path} can be called"
            )

    def launch(self) -> None:
        """Start its programs without waiting, again after they were stopped."""
        for client in self.clients:
            client.launch()

    def stop(self) -> None:
        """Stop its programs."""
        for client in reversed(self.clients):
            client.stop()

    def _program(self, name: str, *flags: str, ready: Callable[[], bool]) -> Component:
        full_name = f"knative-{name}"
        return self._site.process(
            full_name,
            network.entering(self._network, [self._site.programs[full_name], *flags]),
            ready=ready,
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
                "PROFILING_PORT": str(next(self._profiling_ports)),
            },
        )

    def _ingress(self) -> Component:
        name = "knative-ingress"
        program = [sys.executable, "-I", "-S", _INGRESS, self._site.kubeconfig(name)]
        return self._site.process(name, program, ready=lambda: True)


def _has_certificate(configuration: Manifest) -> bool:
    return all(webhook["clientConfig"].get("caBundle") for webhook in configuration["webhooks"])
