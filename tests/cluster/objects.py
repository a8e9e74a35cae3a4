"""InferenceServices as the API server holds them."""

from __future__ import annotations

from typing import Any

from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until

from .asking import wait_ready

OBJECT = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/{}"


def stored(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    return cluster.get(OBJECT.format(namespace, name))


def version(cluster: Cluster, namespace: str, name: str) -> str:
    return str(stored(cluster, namespace, name)["metadata"]["resourceVersion"])


def settled(cluster: Cluster, stub: ModelServiceStub, namespace: str, name: str, id_: str) -> str:
    """The resourceVersion once the rollout is READY and KServe has stopped writing its status."""
    wait_ready(stub, namespace, name, id_)
    seen: list[str] = []

    def unmoved() -> bool:
        seen.append(version(cluster, namespace, name))
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    wait_until(unmoved, f"KServe leaves {name} alone")
    return seen[-1]


def written(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """The object without what KServe's controller tells in its status."""
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
