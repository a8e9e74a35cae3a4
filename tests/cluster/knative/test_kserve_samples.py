"""KServe adds arguments to those of its samples in Knative mode too."""

from __future__ import annotations

from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster
from tests.cluster.test_kserve_samples import EXPLAINERS, SEVERAL_MODELS, TRANSFORMERS, expect_ready


def test_a_sample_to_whose_arguments_kserve_adds_is_ready(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    samples = (EXPLAINERS[0], SEVERAL_MODELS[0], TRANSFORMERS[0])
    expect_ready(cluster, stub, namespace, *samples)
