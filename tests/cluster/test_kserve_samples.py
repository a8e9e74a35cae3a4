"""KServe's own samples whose arguments it adds to: ready for its controller, READY here."""

from __future__ import annotations

from functools import partial

from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, builds, wait_until
from lab.cluster import Manifest
from lab.manifests import documents

from .asking import State, get, wait_ready
from .objects import stored

EXPLAINERS = (
    "explanation/aix/mnist/aix-explainer.yaml",
    "explanation/aix/Fetch_20newsgroups/aix-explainer.yaml",
)
SEVERAL_MODELS = ("multimodelserving/triton/multi_model_triton.yaml",)
TRANSFORMERS = (
    "v1beta1/transformer/feast/driver_transformer_new.yaml",
    "v1beta1/transformer/feast/driver_transformer.yaml",
    "v1beta1/triton/torchscript/torch_grpc_transformer.yaml",
    "v1beta1/triton/torchscript/torch_transformer.yaml",
)


def sample(file: str, namespace: str, name: str) -> Manifest:
    """The only InferenceService in a sample, as one of another name."""
    source = builds.module_source("kserve", "github.com/kserve/kserve")
    found = [
        d for d in documents(source / "docs/samples" / file) if d["kind"] == "InferenceService"
    ]
    [service] = found
    annotations = service["metadata"].get("annotations", {})
    metadata = {"namespace": namespace, "name": name, "annotations": annotations}
    return {**service, "metadata": metadata}


def test_a_sample_to_whose_arguments_kserve_adds_is_ready(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    expect_ready(cluster, stub, namespace, *EXPLAINERS, *SEVERAL_MODELS, *TRANSFORMERS)


def test_a_sample_of_modelmesh_is_told_as_not_followed(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    file = "v1beta1/transformer/feast/driver_transformer_modelmesh.yaml"
    cluster.apply(sample(file, namespace, "mesh"))
    everything = pb.ListRequest(namespace=namespace)
    wait_until(lambda: stub.List(everything).services, "it is listed")
    status = get(stub, namespace, "mesh").status
    assert status.state == State.STATE_PENDING
    assert not status.HasField("failure")
    assert "deployment mode ModelMesh is not followed" in status.message


def expect_ready(cluster: Cluster, stub: ModelServiceStub, namespace: str, *files: str) -> None:
    """Apply the samples; each becomes READY, and so KServe's controller says too."""
    named = {f"sample-{number}": file for number, file in enumerate(files)}
    cluster.apply_all([sample(file, namespace, name) for name, file in named.items()])
    everything = pb.ListRequest(namespace=namespace)
    wait_until(lambda: len(stub.List(everything).services) == len(named), "all are listed")
    for name in named:
        service = wait_ready(stub, namespace, name, get(stub, namespace, name).rollout_id)
        assert service.status.state == State.STATE_READY
        # KServe takes a write that it has lost to another for not ready, and tries again.
        wait_until(partial(_kserve_is_ready, cluster, namespace, name), f"KServe: {name} is Ready")


def _kserve_is_ready(cluster: Cluster, namespace: str, name: str) -> bool:
    conditions = stored(cluster, namespace, name)["status"]["conditions"]
    return {c["type"]: c["status"] for c in conditions}["Ready"] == "True"
