"""Knative's two autoscalers: what each can scale by, as KServe and Knative have it."""

from __future__ import annotations

import itertools
from typing import Any

from grpc import StatusCode
from kubernetes.client.exceptions import ApiException
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import Scaling
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until
from tests.cluster.asking import MODEL, container, deploy, model, outcome
from tests.cluster.objects import unmanaged
from tests.refusals import refused

CLASS = "autoscaling.knative.dev/class"
METRIC = "autoscaling.knative.dev/metric"
HPA, KPA = "hpa.autoscaling.knative.dev", "kpa.autoscaling.knative.dev"
SERVICES = "/apis/serving.knative.dev/v1/namespaces/{}/services"


def test_a_metric_is_refused_where_kserve_would_refuse_it(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    for named, metric in itertools.product(
        ({}, {CLASS: HPA}, {CLASS: KPA}), ("cpu", "memory", "concurrency", "rps")
    ):
        spec = model(scaling=Scaling(metric=metric), deployment_mode="Knative")
        request = pb.DeployRequest(
            namespace=namespace, name="iris", spec=spec, annotations=named, validate_only=True
        )
        told = outcome(stub.Deploy, request)
        accepted = isinstance(told, pb.DeployResponse)
        assert accepted or told == "FIELD_INVALID"
        assert accepted == _accepted_by_kserve(cluster, namespace, named, metric), (named, metric)


def test_knative_is_asked_to_leave_scaling_by_cpu_to_kubernetes(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    scaling = Scaling(min_replicas=1, max_replicas=3, metric="cpu", target=70)
    deploy(stub, namespace, "iris", container(scaling=scaling), annotations={CLASS: HPA})
    path = SERVICES.format(namespace)
    wait_until(lambda: cluster.get(path)["items"], "KServe has made a Knative Service")
    [service] = cluster.get(path)["items"]
    asked = service["spec"]["template"]["metadata"]["annotations"]
    assert (asked[CLASS], asked[METRIC]) == (HPA, "cpu")


def test_a_refusal_that_rests_on_the_clusters_default_mode_says_so(
    stub: ModelServiceStub, namespace: str
) -> None:
    def asked(**fields: Any) -> pb.DeployRequest:
        spec = container(scaling=Scaling(metric="cpu"), **fields)
        return pb.DeployRequest(namespace=namespace, name="iris", spec=spec)

    told = [
        refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.Deploy, request).message
        for request in (asked(), asked(deployment_mode="Knative"))
    ]
    assert ["the cluster's default deployment mode" in message for message in told] == [True, False]


def _accepted_by_kserve(
    cluster: Cluster, namespace: str, annotations: dict[str, str], metric: str
) -> bool:
    predictor = {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": MODEL}}
    manifest = unmanaged(namespace, "iris", {**predictor, "scaleMetric": metric})
    manifest["metadata"]["annotations"] = annotations
    every = cluster.path_of(manifest).rpartition("/")[0]
    try:
        cluster.request("POST", f"{every}?dryRun=All", manifest)
    except ApiException as refusal:
        if refusal.status != 403:
            raise
        return False
    return True
