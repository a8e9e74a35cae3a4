"""ResourceQuotas that hold: the API server takes one up some moments after it has its status."""

from __future__ import annotations

from http import HTTPStatus

from kubernetes.client.exceptions import ApiException

from lab import Cluster, wait_until
from lab.cluster import Manifest


def forbid(cluster: Cluster, namespace: str, resource: str, refused: Manifest) -> None:
    """Have a namespace take no more of a resource, as a quota calls it; returns once `refused`, an
    object of it, is refused."""
    metadata = {"name": "none", "namespace": namespace}
    hard = {"hard": {resource: "0"}}
    cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": hard})
    path = f"{cluster.path_of(refused).rpartition('/')[0]}?dryRun=All"

    def holds() -> bool:
        try:
            cluster.request("POST", path, refused)
        except ApiException as e:
            return e.status == HTTPStatus.FORBIDDEN and "exceeded quota" in str(e.body)
        return False

    wait_until(holds, f"the quota holds in {namespace}")
