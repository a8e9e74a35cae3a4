"""Our own image, installed on a cluster from k8s/ and called where its Service sends callers.

The Service is headless and nothing here answers DNS, so callers get the addresses that DNS would
give. The NetworkPolicy is not held to: the lab's network has no plugin that does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2_grpc
from modelservice.v1.model_service_pb2 import ListRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab, wait_until
from tests.cluster.asking import deploy
from tests.cluster.kubectl import kubectl
from tests.cluster.namespace_watch import NamespaceWatch
from tests.cluster.recording import Recording
from tests.cluster.serving import NAMESPACE, ROOT
from tests.patience import PATIENCE_SECONDS

from .calling import calling, deployer_token, make_secret
from .lifecycle import Life
from .predicting import own_container

# The first test waits for the image: its packages come over the network.
pytestmark = pytest.mark.timeout(900)

POD = f"/api/v1/namespaces/{NAMESPACE}/pods"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
PORT = 50051
STOP_GRACE = 30.0  # MODELSERVICE_STOP_GRACE's default, of which it takes the first 2 s


@pytest.fixture(scope="module")
def ca(node_lab: NodeLab, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The CA of the server's certificate, whose Secret is there."""
    return make_secret(node_lab, tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def installed(node_lab: NodeLab, server_archive: Path, ca: bytes) -> Iterator[None]:
    """The server runs as k8s/overlays/standard-all-namespaces has it until the last test here."""
    node_lab.import_image(server_archive)
    kubectl(node_lab, "apply", "-k", str(ROOT / "k8s/overlays/standard-all-namespaces"))
    # Pods that looked for the image before it was there look again only minutes later.
    kubectl(node_lab, "-n", NAMESPACE, "rollout", "restart", "deployment/modelservice")
    waited = ("rollout", "status", "deployment/modelservice", "--timeout=300s")
    kubectl(node_lab, "-n", NAMESPACE, *waited)
    yield
    kubectl(node_lab, "-n", NAMESPACE, "scale", "deployment/modelservice", "--replicas=0")


@pytest.fixture(scope="module")
def token(node_lab: NodeLab, installed: None) -> str:
    """A caller's, with the right to deploy."""
    return deployer_token(node_lab)


@pytest.fixture
def pods(node_lab: NodeLab, installed: None) -> list[dict[str, Any]]:
    """The server's pods that are Ready."""
    return [pod for pod in node_lab.get(POD)["items"] if _is_ready(pod)]


@pytest.fixture
def service(node_lab: NodeLab, ca: bytes, token: str) -> Iterator[ModelServiceStub]:
    """The server as callers in the cluster have it: every address of its Service, in turn."""
    # The Service hears of its pods a little later than the Deployment.
    wait_until(lambda: _endpoints(node_lab) == _addresses(node_lab), "the Service has the pods")
    target = "ipv4:" + ",".join(f"{address}:{PORT}" for address in _endpoints(node_lab))
    options = (("grpc.lb_policy_name", "round_robin"),)
    with calling(target, ca, token, options) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def test_it_runs_as_nobody_with_a_root_that_it_cannot_write(
    node_lab: NodeLab, pods: list[dict[str, Any]]
) -> None:
    assert len(pods) == 2
    pod = pods[0]["metadata"]["name"]
    tried = "id -u; touch /written /tmp/written /opt/modelservice/written 2>&1; true"
    user, *refused = _in_pod(node_lab, pod, "sh", "-c", tried).splitlines()
    assert user == "65532"
    assert len(refused) == 3
    assert all("Read-only file system" in line for line in refused)


def test_there_is_nothing_in_it_to_install_with(
    node_lab: NodeLab, pods: list[dict[str, Any]]
) -> None:
    """Of what we add: a base has what it has."""
    find = (
        "import importlib.util as u; print(*[n for n in ('pip', 'setuptools') if u.find_spec(n)])"
    )
    python = "/opt/modelservice/bin/python3"
    assert _in_pod(node_lab, pods[0]["metadata"]["name"], python, "-c", find).strip() == ""


def test_from_deploy_to_gone_through_its_service(
    node_lab: NodeLab, service: ModelServiceStub, namespace: str
) -> None:
    seen = Life(node_lab, service, namespace, "own", own_container("own")).lead()
    assert seen.failures() == []


def test_it_takes_no_call_in_plaintext_or_without_a_token(
    node_lab: NodeLab, pods: list[dict[str, Any]], ca: bytes
) -> None:
    address = f"{pods[0]['status']['podIP']}:{PORT}"
    request = ListRequest(namespace="default")
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        ModelServiceStub(channel).List(request, timeout=PATIENCE_SECONDS)
    assert raised.value.code() is StatusCode.UNAVAILABLE
    with calling(address, ca, "garbage") as channel, pytest.raises(grpc.RpcError) as raised:
        ModelServiceStub(channel).List(request, timeout=PATIENCE_SECONDS)
    assert raised.value.code() is StatusCode.UNAUTHENTICATED


def test_it_stops_within_its_grace_and_tells_who_watches(
    node_lab: NodeLab, pods: list[dict[str, Any]], namespace: str, ca: bytes, token: str
) -> None:
    pod = pods[0]
    seen = NamespaceWatch(node_lab, node_lab.tokens["admin"], NAMESPACE)
    with calling(f"{pod['status']['podIP']}:{PORT}", ca, token) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        deploy(stub, namespace, "watched", own_container("watched").spec(1))
        watch = Recording(stub, namespace, "watched")
        watch.wait(lambda s: s.name == "watched", "the snapshot")

        began = time.time()
        node_lab.request("DELETE", f"{POD}/{pod['metadata']['name']}")
        refusal = watch.end()
    assert refusal
    assert refusal.reason == "SERVER_STOPPING"
    wait_until(lambda: _is_gone(seen, pod), "the pod is gone")
    seen.close()
    ended = _ended(seen, pod)
    assert ended["exitCode"] == 0
    # Its node tells whole seconds, cut off.
    took = datetime.fromisoformat(ended["finishedAt"]).timestamp() - began
    print(f"its program ended {took:.0f} s after its pod was deleted, and the watch cleanly")
    assert took < STOP_GRACE


def test_it_logs_nothing_but_what_it_means_to(
    node_lab: NodeLab, pods: list[dict[str, Any]]
) -> None:
    for pod in pods:
        lines = kubectl(node_lab, "-n", NAMESPACE, "logs", pod["metadata"]["name"]).splitlines()
        logged = [json.loads(line) for line in lines]
        # The others are audit records.
        levels = {line["level"] for line in logged if "stage" not in line}
        assert levels <= {"info", "warning"}, lines


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {told["type"]: told["status"] for told in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _in_pod(lab: NodeLab, pod: str, *command: str) -> str:
    return kubectl(lab, "-n", NAMESPACE, "exec", pod, "--", *command)


def _endpoints(lab: NodeLab) -> set[str]:
    """The addresses that its Service has."""
    slices = lab.get(f"{SLICES}?labelSelector=kubernetes.io/service-name=modelservice")
    endpoints = [endpoint for made in slices["items"] for endpoint in made["endpoints"] or ()]
    return {e["addresses"][0] for e in endpoints if e["conditions"].get("ready")}


def _addresses(lab: NodeLab) -> set[str]:
    """Those of its pods that are Ready."""
    return {pod["status"]["podIP"] for pod in lab.get(POD)["items"] if _is_ready(pod)}


def _is_gone(seen: NamespaceWatch, pod: dict[str, Any]) -> bool:
    """Whether the watch, which may lag behind, has told all of this pod."""
    uid = pod["metadata"]["uid"]
    sights = (sight for sight in list(seen.seen) if sight.object["metadata"]["uid"] == uid)
    return any(sight.change == "DELETED" for sight in sights)


def _ended(seen: NamespaceWatch, pod: dict[str, Any]) -> dict[str, Any]:
    """How its container ended: the last that the kubelet told before the pod was gone."""
    uid = pod["metadata"]["uid"]
    pods = [sight.object for sight in seen.seen if sight.object["metadata"]["uid"] == uid]
    states = [status["state"] for now in pods for status in now["status"]["containerStatuses"]]
    return dict([state["terminated"] for state in states if "terminated" in state][-1])
