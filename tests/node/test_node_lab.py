"""The real node itself: pods run on it, and nothing of it is left behind."""

from __future__ import annotations

from typing import Any

from tests.cluster.kubectl import kubectl
from tests.cluster.lab import NodeLab, wait_until

PAUSE = "docker.io/lab/pause:1"


def pod(name: str, namespace: str, **container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": PAUSE} | container]},
    }


def test_a_pod_runs_and_its_image_was_there_before(node_lab: NodeLab, namespace: str) -> None:
    node_lab.apply(pod("pause", namespace))
    path = f"/api/v1/namespaces/{namespace}/pods/pause"
    wait_until(lambda: node_lab.get(path)["status"]["phase"] == "Running", "it runs")
    assert "already present" in kubectl(node_lab, "describe", "pod", "pause", "-n", namespace)
