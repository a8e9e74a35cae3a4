"""Each way in which a first rollout fails in Knative mode that a simulated node can play."""

from __future__ import annotations

from modelservice.v1.inference_service_pb2 import Resources

from lab import Cluster
from tests.cluster.asking import container, model
from tests.cluster.failures import Case
from tests.cluster.simulated_failures import CASES as OF_STANDARD_MODE

TOO_MUCH = Resources(requests={"cpu": "1000"}, limits={"cpu": "1000"})

CASES = (
    # A node's labels may not be asked for in Knative mode, unless the cluster's operator says so.
    *(case for case in OF_STANDARD_MODE if case.what != "unschedulable"),
    Case("CPU that no node has", container(resources=TOO_MUCH), "UNSCHEDULABLE", wait=60),
    Case("PVC missing", model(uri="pvc://no-such-claim/iris"), "VOLUME", wait=10),
    Case("PVC unbound", model(uri="pvc://unbound/iris"), "VOLUME", wait=60),
    # The lab's own deadline, not Knative's of ten minutes.
    Case(
        "slow past the deadline",
        container("lab/slow:1h"),
        "NOT_ANSWERING",
        container="kserve-container",
        wait=60,
    ),
)


def put_unbound_claim(cluster: Cluster, namespace: str) -> None:
    """The claim `unbound`, for which there is no volume."""
    metadata = {"name": "unbound", "namespace": namespace}
    spec = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "of-nobody",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    cluster.apply({**kind, "metadata": metadata, "spec": spec})
