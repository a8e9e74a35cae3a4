"""What Get shows of a service that somebody else made, given back to Deploy as it is."""

from __future__ import annotations

from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until
from tests.refusals import refused

from .asking import SKLEARN_IMAGE, Action, get, wait_ready
from .objects import stored, unmanaged

HELD = "serving.kserve.io/tier"


def test_a_key_of_kserves_and_a_default_that_is_named_are_given_back(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    token = {"secretKeyRef": {"name": "hub", "key": "token", "optional": False}}
    container = {
        "name": "kserve-container",
        "image": SKLEARN_IMAGE,
        "env": [{"name": "TOKEN", "valueFrom": token}],
    }
    manifest = unmanaged(namespace, "theirs", {"containers": [container]})
    manifest["metadata"] |= {"annotations": {HELD: "gold"}, "labels": {HELD: "gold"}}
    cluster.apply(manifest, field_manager="kubectl")
    everything = pb.ListRequest(namespace=namespace)
    wait_until(lambda: stub.List(everything).services, "it is listed")
    found = get(stub, namespace, "theirs")
    assert "not part of `spec`" not in found.status.message

    def given_back(*, force: bool = False, tier: str = "gold") -> pb.DeployRequest:
        shown = get(stub, namespace, "theirs")
        request = pb.DeployRequest(
            namespace=namespace,
            name="theirs",
            spec=shown.spec,
            labels=shown.labels,
            annotations=shown.annotations,
            force=force,
        )
        request.annotations[HELD] = tier
        return request

    another = refused(
        StatusCode.INVALID_ARGUMENT,
        "FIELD_INVALID",
        stub.Deploy,
        given_back(force=True, tier="iron"),
    )
    assert HELD in another.message
    adopted = stub.Deploy(given_back(force=True))
    assert adopted.action == Action.ACTION_UPDATED
    assert stub.Deploy(given_back()).action == Action.ACTION_UNCHANGED
    metadata = stored(cluster, namespace, "theirs")["metadata"]
    assert (metadata["annotations"][HELD], metadata["labels"][HELD]) == ("gold", "gold")
    wait_ready(stub, namespace, "theirs", adopted.rollout_id)
