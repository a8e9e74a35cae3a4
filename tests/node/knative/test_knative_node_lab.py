"""The node lab in Knative mode: models really serve behind queue-proxy."""

from __future__ import annotations

from typing import Any

from lab import NodeLab, images, wait_until
from tests.cluster.test_lab import inference_service, ready
from tests.node.predicting import sklearn_on_claim

SMALL = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}


def iris(**model: Any) -> dict[str, Any]:
    return {
        "model": {
            "modelFormat": {"name": "sklearn"},
            "runtime": "kserve-mlserver",
            "storageUri": "pvc://models/iris-v1",
            "resources": SMALL,
            **model,
        }
    }


def test_a_model_answers_through_queue_proxy_once_it_is_loaded(
    node_lab: NodeLab, namespace: str
) -> None:
    node_lab.put_models(images.models(print), namespace)
    probe = {"httpGet": {"path": "/v2/models/iris/ready", "port": 8080}}
    node_lab.apply(inference_service("iris", namespace, iris(readinessProbe=probe)))
    wait_until(lambda: ready(node_lab, namespace, "iris") == "True", "iris is Ready", timeout=200)
    predictor = sklearn_on_claim("iris")
    address = revision_address(node_lab, namespace, "iris")
    # kube-proxy hears of the pod when Knative does, and takes up to a second for it.
    wait_until(lambda: predictor.answer(address) == [0], "the model answers")


def revision_address(lab: NodeLab, namespace: str, name: str) -> str:
    """The ClusterIP that leads to the pods of its first Revision, by way of their queue-proxies."""
    service = f"/api/v1/namespaces/{namespace}/services/{name}-predictor-00001-private"
    return str(lab.get(service)["spec"]["clusterIP"])
