"""InferenceServices as the API server holds them."""

from __future__ import annotations

from typing import Any

from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster

from .asking import wait_ready

OBJECT = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/{}"


def stored(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    return cluster.get(OBJECT.format(namespace, name))


def written_once_ready(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, name: str, id_: str
) -> dict[str, Any]:
    """What was written of a service, once its rollout is READY."""
    wait_ready(stub, namespace, name, id_)
    return written(cluster, namespace, name)


def written(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """The object without what changes with its status, which KServe may write at any time; every
    other write shows."""
    held = stored(cluster, namespace, name)
    held.pop("status", None)
    held["metadata"].pop("resourceVersion")
    fields = held["metadata"]["managedFields"]
    held["metadata"]["managedFields"] = [f for f in fields if "subresource" not in f]
    return held


def unmanaged(namespace: str, name: str, predictor: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"predictor": predictor},
    }
