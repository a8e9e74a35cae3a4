"""The lab's one node: simulated by KWOK, with pods whose outcome their image scripts."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client.exceptions import ApiException

from .builds import module_source
from .cluster import Cluster, Manifest
from .processes import Component, answers
from .site import Site

NODE = "lab-node"
LEASE_PATH = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"
SCRIPT = Path(__file__).with_name("stages.yaml")
STOCK_FOLDERS = ("node/fast", "node/heartbeat-with-lease", "pod/fast")


class SimulatedNode:
    """A node that KWOK plays, with 1,000 CPUs and 1 TiB of memory."""

    name = NODE
    address = "127.0.0.1"

    def __init__(self, site: Site, pods: str = "10.0.0.1/24") -> None:
        """`pods` is where their addresses are from, with the first of them."""
        self.apiserver_flags = ["--service-cluster-ip-range=10.96.0.0/16"]
        # Its lease cannot be renewed while a test has the API server stopped.
        self.controller_manager_flags = ["--node-monitor-grace-period=600s"]
        self._stages = site.folder / "stages.yaml"
        self.kwok = self._kwok(site, pods)
        self.clients = [self.kwok]

    def prepare(self) -> None:
        write_stages(module_source("kwok", "sigs.k8s.io/kwok"), self._stages)

    def launch(self, cluster: Cluster) -> None:
        cluster.apply(node())
        # A new KWOK would wait until the lease of the one before has run out.
        with suppress(ApiException):
            cluster.request("DELETE", LEASE_PATH)
        self.kwok.launch()

    def wait_ready(self) -> None:
        self.kwok.wait_ready()

    def stop(self) -> None:
        self.kwok.stop()

    def _kwok(self, site: Site, pods: str) -> Component:
        port = site.ports.next()
        return site.component(
            "kwok",
            f"--kubeconfig={site.kubeconfig('kwok')}",
            f"--config={self._stages}",
            "--manage-all-nodes=true",
            f"--cidr={pods}",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{port}",
            ready=lambda: answers(f"http://127.0.0.1:{port}/healthz"),
        )


def node() -> Manifest:
    """A Node for KWOK to play."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": NODE,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"},
        },
    }


def write_stages(source: Path, target: Path) -> None:
    """KWOK's configuration: its stock stages, less the scripted pods, and the lab's own.

    `source` is the folder of KWOK's source.
    """
    script = yaml.safe_load(SCRIPT.read_text())
    stages = [*_stock(source), *_scripted(script)]
    [ready] = [stage for stage in stages if stage["metadata"]["name"] == "pod-ready"]
    ready["spec"]["selector"]["matchExpressions"].append(script["unscripted"])
    target.write_text("\n---\n".join(map(json.dumps, stages)))


def _stock(source: Path) -> list[Manifest]:
    files = [
        file
        for folder in STOCK_FOLDERS
        for file in sorted((source / "kustomize/stage" / folder).glob("*.yaml"))
        if file.name != "kustomization.yaml"
    ]
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def _scripted(script: dict[str, Any]) -> list[Manifest]:
    return [_stage(stage, script["templates"]) for stage in script["stages"]]


def _stage(stage: dict[str, Any], templates: str) -> Manifest:
    spec: dict[str, Any] = {
        "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
        "selector": {"matchExpressions": stage["when"]},
        "next": {"statusTemplate": "\n".join([templates, *stage["status"]])},
    }
    if "after" in stage:
        spec["delay"] = {"durationMilliseconds": _milliseconds(stage["after"])}
    if "after_jq" in stage:
        spec["delay"] = {"durationFrom": {"expressionFrom": stage["after_jq"]}}
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": stage["name"]},
        "spec": spec,
    }


def _milliseconds(duration: str) -> int:
    number, unit = re.findall(r"^(\d+)(ms|s)$", duration)[0]
    return int(number) * (1000 if unit == "s" else 1)
