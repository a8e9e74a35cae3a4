"""Our own image as a Knative Service, called by way of its queue-proxy: HTTP/2 all the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab, wait_until
from tests.api.token_files import Client
from tests.cluster.asking import container, deploy
from tests.cluster.kubectl import kubectl
from tests.cluster.serving import NAMESPACE, ROOT, make_room_for_knative
from tests.node.calling import deployer_token
from tests.patience import PATIENCE_SECONDS

# The first test waits for the image: its packages come over the network.
pytestmark = pytest.mark.timeout(900)

OVERLAY = ROOT / "k8s/overlays/knative-all-namespaces"
SERVICE = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/services/modelservice"
CALL_LIMIT = 5.0  # instead of the overlay's ten minutes


@pytest.fixture(scope="module")
def service(
    node_lab: NodeLab, server_archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServiceStub]:
    """The server as k8s/overlays/knative-all-namespaces has it, with a shorter limit on calls."""
    node_lab.import_image(server_archive)
    made = tmp_path_factory.mktemp("overlay") / "made.yaml"
    limit = f"timeoutSeconds: {CALL_LIMIT:.0f}"
    made.write_text(
        kubectl(node_lab, "kustomize", str(OVERLAY)).replace("timeoutSeconds: 600", limit)
    )
    make_room_for_knative(node_lab)
    kubectl(node_lab, "apply", "--server-side", "--force-conflicts", "-f", str(made))
    wait_until(lambda: is_ready(node_lab), "the server is Ready")
    with grpc.insecure_channel(f"{address(node_lab)}:80") as channel:
        # kube-proxy hears of the pods when Knative does, and takes up to a second for it.
        grpc.channel_ready_future(channel).result(PATIENCE_SECONDS)
        yield Client(channel, f"Bearer {deployer_token(node_lab)}").models
    node_lab.request("DELETE", SERVICE)


def is_ready(lab: NodeLab) -> bool:
    conditions = lab.get(SERVICE).get("status", {}).get("conditions", [])
    return {"Ready": "True"}.items() <= {c["type"]: c["status"] for c in conditions}.items()


def address(lab: NodeLab) -> str:
    """Of its latest Revision's pods, by way of their queue-proxies."""
    revision = lab.get(SERVICE)["status"]["latestReadyRevisionName"]
    path = f"/api/v1/namespaces/{NAMESPACE}/services/{revision}-private"
    return str(lab.get(path)["spec"]["clusterIP"])


def test_a_call_without_a_token_is_unauthenticated(
    node_lab: NodeLab, service: ModelServiceStub
) -> None:
    with (
        grpc.insecure_channel(f"{address(node_lab)}:80") as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        ModelServiceStub(channel).List(pb.ListRequest(namespace="default"), timeout=30)
    assert raised.value.code() is StatusCode.UNAUTHENTICATED


def test_it_answers(service: ModelServiceStub, namespace: str) -> None:
    listed = service.List(pb.ListRequest(namespace=namespace), timeout=30)
    assert not listed.services


def test_a_watch_is_cut_at_the_limit_of_calls_and_goes_on_from_its_token(
    service: ModelServiceStub, namespace: str
) -> None:
    began = time.monotonic()
    watching = watch(service, namespace)
    token = next(watching).resume_token
    with pytest.raises(grpc.RpcError) as cut:
        list(watching)
    assert cut.value.code() is StatusCode.UNKNOWN
    assert CALL_LIMIT <= time.monotonic() - began < 10 * CALL_LIMIT

    deploy(service, namespace, "iris", container("lab/missing:1"))
    kinds = []
    for message in watch(service, namespace, resume_token=token):
        kinds.append(message.type)
        if message.service.name == "iris":
            break
    assert pb.WatchStatusResponse.TYPE_RESET not in kinds


def watch(
    service: ModelServiceStub, namespace: str, **fields: Any
) -> Iterator[pb.WatchStatusResponse]:
    request = pb.WatchStatusRequest(namespace=namespace, **fields)
    yield from service.WatchStatus(request, timeout=10 * CALL_LIMIT)
