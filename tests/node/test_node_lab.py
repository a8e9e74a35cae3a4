"""The real node itself: pods run on it, answer, write logs, and it can go away and come back."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lab import NodeLab, images, wait_until
from tests.cluster.kubectl import kubectl


@pytest.fixture(autouse=True)
def account(node_lab: NodeLab, namespace: str) -> None:
    """The service account of the pods here, which Kubernetes makes a little after a namespace."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    wait_until(lambda: node_lab.get(path)["items"], "there is a service account")


def pod(name: str, namespace: str, *command: str, **container: Any) -> dict[str, Any]:
    main = {"name": "main", "image": images.PYTHON, "command": list(command)} | container
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 0},
    }


def service(name: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def status(lab: NodeLab, namespace: str, name: str) -> dict[str, Any]:
    return dict(lab.get(f"/api/v1/namespaces/{namespace}/pods/{name}")["status"])


def waiting(lab: NodeLab, namespace: str, name: str) -> dict[str, Any]:
    containers = status(lab, namespace, name).get("containerStatuses", [{}])
    return dict(containers[0].get("state", {}).get("waiting", {}))


def logs(lab: NodeLab, namespace: str, name: str) -> str:
    return kubectl(lab, "logs", name, "-n", namespace)


def answer(url: str) -> str:
    """What is answered; empty while nothing is."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as answered:
            return str(answered.read().decode())
    except OSError:
        return ""


def test_a_model_folder_is_served_through_a_cluster_ip_and_the_log_says_so(
    node_lab: NodeLab, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "iris").mkdir()
    (tmp_path / "iris" / "model.txt").write_text("three petals")
    tmp_path.chmod(0o700)
    node_lab.put_models(tmp_path, namespace)
    serving = pod(
        "iris",
        namespace,
        *("python3", "-u", "-m", "http.server", "8080"),
        workingDir="/mnt/models",
        securityContext={"runAsUser": 1000},
        volumeMounts=[{"name": "models", "mountPath": "/mnt/models", "subPath": "iris"}],
    )
    claim = {"claimName": "models", "readOnly": True}
    serving["spec"]["volumes"] = [{"name": "models", "persistentVolumeClaim": claim}]
    node_lab.apply(serving)
    address = node_lab.apply(service("iris", namespace))["spec"]["clusterIP"]

    wait_until(lambda: "Serving" in logs_if_any(node_lab, namespace, "iris"), "it serves")
    url = f"http://{address}/model.txt"
    wait_until(lambda: answer(url) == "three petals", "the Service leads to the pod")
    wait_until(lambda: "GET /model.txt" in logs(node_lab, namespace, "iris"), "the log says so")
    assert kubectl(node_lab, "exec", "iris", "-n", namespace, "--", "id", "-u") == "1000\n"


def logs_if_any(lab: NodeLab, namespace: str, name: str) -> str:
    started = status(lab, namespace, name).get("phase") == "Running"
    return logs(lab, namespace, name) if started else ""


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ("example.com/no/such:1", "example.com/no/such:1: not found"),
        ("denied/private:1", "insufficient_scope: authorization failed"),
    ],
)
def test_an_image_that_cannot_be_had_is_told_in_the_words_of_a_registry(
    node_lab: NodeLab, namespace: str, image: str, complaint: str
) -> None:
    node_lab.apply(pod("pulling", namespace, image=image))
    wait_until(
        lambda: complaint in waiting(node_lab, namespace, "pulling").get("message", ""), complaint
    )


CALL_THE_API = """
import os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
token = open(folder + "token").read()
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}/api/v1/namespaces/default"
asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
trusted = ssl.create_default_context(cafile=folder + "ca.crt")
try:
    urllib.request.urlopen(asked, context=trusted, timeout=5)
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""


def test_a_pod_calls_the_api_server_as_its_service_account(
    node_lab: NodeLab, namespace: str
) -> None:
    node_lab.apply(pod("caller", namespace, "python3", "-c", CALL_THE_API))
    user = f"system:serviceaccount:{namespace}:default"
    wait_until(lambda: user in logs_if_ended(node_lab, namespace, "caller"), f"refused as {user}")


def logs_if_ended(lab: NodeLab, namespace: str, name: str) -> str:
    containers = status(lab, namespace, name).get("containerStatuses", [{}])
    ended = containers[0].get("lastState") or containers[0].get("state", {}).get("terminated")
    return logs(lab, namespace, name) if ended else ""


def test_a_node_without_its_kubelet_is_lost_and_comes_back(
    node_lab: NodeLab, namespace: str
) -> None:
    node_lab.kubelet.stop()
    try:
        wait_until(lambda: not node_lab.node_is_ready(), "the node is lost")
    finally:
        node_lab.kubelet.start()
    wait_until(node_lab.node_is_ready, "the node is back")
