"""Others who write InferenceServices beside ModelService."""

from __future__ import annotations

from typing import Any

from lab import Cluster, wait_until
from server.domain.service.inference_service import ServiceKey

from .held_deletions import SERVICES, keep, set_finalizers

PATH = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices"


def stored(cluster: Cluster, key: ServiceKey) -> dict[str, Any]:
    """The object as the API server has it."""
    return cluster.get(f"{PATH.format(key.namespace)}/{key.name}")


def create(cluster: Cluster, key: ServiceKey, predictor: dict[str, Any]) -> dict[str, Any]:
    """Make a service as kubectl would."""
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": key.name},
        "spec": {"predictor": predictor},
    }
    path = f"{PATH.format(key.namespace)}?fieldManager=kubectl-create"
    return cluster.request("POST", path, manifest)


def edit(cluster: Cluster, key: ServiceKey, change: dict[str, Any]) -> dict[str, Any]:
    """Change a service as kubectl would."""
    path = f"{PATH.format(key.namespace)}/{key.name}?fieldManager=kubectl-edit"
    return cluster.request("PATCH", path, change, "application/merge-patch+json")


def remove(cluster: Cluster, key: ServiceKey) -> None:
    """Delete a service and see it gone."""
    path = f"{PATH.format(key.namespace)}/{key.name}"
    cluster.request("DELETE", path, {"propagationPolicy": "Background"})
    listed = PATH.format(key.namespace)

    def gone() -> bool:
        return all(o["metadata"]["name"] != key.name for o in cluster.get(listed)["items"])

    wait_until(gone, f"{key} is gone")


def hold(cluster: Cluster, key: ServiceKey) -> None:
    """Keep a service from going away when it is deleted."""
    keep(cluster, SERVICES.format(key.namespace, key.name))


def let_go(cluster: Cluster, key: ServiceKey) -> None:
    """Let a held service go."""
    set_finalizers(cluster, SERVICES.format(key.namespace, key.name))


def wait_ready(cluster: Cluster, key: ServiceKey) -> None:
    """Return once KServe says that a service is Ready."""
    wait_until(lambda: is_ready(stored(cluster, key)), f"{key} is Ready")


def is_ready(service: dict[str, Any]) -> bool:
    """Whether KServe says so of this object."""
    conditions = service.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
