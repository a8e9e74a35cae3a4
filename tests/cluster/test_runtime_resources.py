"""What a pod has of its runtime's resources and of those asked for, beside kubectl's pod."""

from __future__ import annotations

from typing import Any, NamedTuple

from modelservice.v1.inference_service_pb2 import Resources
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until
from lab.cluster import Manifest

from .asking import MODEL, Action, deploy, get, model
from .objects import stored, unmanaged

Amounts = dict[str, str]
PODS = "/api/v1/namespaces/{}/pods?labelSelector=serving.kserve.io/inferenceservice={}"


class Case(NamedTuple):
    """A runtime's requests and limits, those asked for, and what is added to them: nothing, where
    kubectl's pod can be made."""

    own: tuple[Amounts, Amounts]
    asked: tuple[Amounts, Amounts]
    added: tuple[Amounts, Amounts] = ({}, {})


SHIPPED = {"cpu": "1", "memory": "2Gi"}
CASES = (
    Case(({}, {"cpu": "16", "memory": "64Gi"}), ({"memory": "10Gi"}, {})),
    Case(({}, {}), ({"memory": "4Gi"}, {})),
    Case(({"memory": "256Mi"}, {}), ({}, {"memory": "1Gi"})),
    Case((SHIPPED, SHIPPED), ({}, {})),
    Case((SHIPPED, SHIPPED), ({"cpu": "500m"}, {"memory": "3Gi"})),
    Case((SHIPPED, SHIPPED), ({"memory": "4Gi"}, {}), ({}, {"memory": "4Gi"})),
    Case((SHIPPED, SHIPPED), ({}, {"cpu": "250m"}), ({"cpu": "250m"}, {})),
    Case(({"cpu": "2"}, {}), ({}, {"cpu": "1"}), ({"cpu": "1"}, {})),
    Case(({}, {"memory": "2Gi"}), ({"cpu": "3"}, {})),
    Case(
        ({}, {"ephemeral-storage": "1Gi"}),
        ({"ephemeral-storage": "2Gi"}, {}),
        ({}, {"ephemeral-storage": "2Gi"}),
    ),
    Case(
        ({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"}),
        ({}, {"nvidia.com/gpu": "2"}),
        ({"nvidia.com/gpu": "2"}, {}),
    ),
    Case((SHIPPED, SHIPPED), ({"cpu": "2", "memory": "1Gi"}, {"cpu": "4", "memory": "6Gi"})),
)


def runtime(
    namespace: str, name: str, resources: tuple[Amounts, Amounts], **known: Any
) -> Manifest:
    """A ServingRuntime for the format of its own name, or the one given."""
    requests, limits = resources
    container = {
        "name": "kserve-container",
        "image": "lab/runtime:1",
        "resources": {"requests": requests, "limits": limits},
    }
    formats = [{"name": name, "autoSelect": True, **known}]
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"supportedModelFormats": formats, "containers": [container]},
    }


def test_a_pod_has_what_kubectls_has_or_where_that_is_invalid_the_least_more(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    cases = {f"case-{number}": case for number, case in enumerate(CASES, 1)}
    cluster.apply_all([runtime(namespace, name, case.own) for name, case in cases.items()])
    theirs = [_of_kubectl(namespace, name, case) for name, case in cases.items()]
    cluster.apply_all(theirs)
    for name, case in cases.items():
        requests, limits = case.asked
        asked = model(name, resources=Resources(requests=requests, limits=limits))
        assert deploy(stub, namespace, name, asked).action == Action.ACTION_CREATED
        assert get(stub, namespace, name).spec.resources == asked.resources
        assert deploy(stub, namespace, name, asked).action == Action.ACTION_UNCHANGED

    for name, case in cases.items():
        ours = _of_pod(cluster, namespace, name)
        line = f"{name:8} runtime {_told(case.own):58} asked {_told(case.asked):58}"
        if case.added == ({}, {}):
            kubectls = _of_pod(cluster, namespace, f"{name}-kubectl")
            print(line, f"kubectl's pod {_told(kubectls)} | ours the same")
            assert ours == kubectls
            continue
        wait_until(lambda n=name: _is_invalid(cluster, namespace, n), f"{name} is refused")
        print(line, f"kubectl's pod is invalid | ours {_told(ours)}")
        for had, own, asked_for, added in zip(ours, case.own, case.asked, case.added, strict=True):
            assert had == {**own, **asked_for, **added}


def test_of_several_runtimes_it_is_the_one_that_kserve_takes(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    small, large = ({}, {"memory": "2Gi"}), ({}, {"memory": "64Gi"})
    several = {"a-first": small, "b-preferred": large, "c-last": small}
    for name, resources in several.items():
        priority = 2 if resources is large else 1
        manifest = runtime(namespace, name, resources, priority=priority)
        manifest["spec"]["supportedModelFormats"][0]["name"] = "shared"
        cluster.apply(manifest)
    deploy(
        stub, namespace, "iris", model("shared", resources=Resources(requests={"memory": "10Gi"}))
    )
    assert _of_pod(cluster, namespace, "iris")[1] == {"memory": "64Gi"}


def _of_kubectl(namespace: str, name: str, case: Case) -> Manifest:
    requests, limits = case.asked
    predictor = {
        "modelFormat": {"name": name},
        "storageUri": MODEL,
        "resources": {"requests": requests, "limits": limits},
    }
    return unmanaged(namespace, f"{name}-kubectl", {"model": predictor})


def _of_pod(cluster: Cluster, namespace: str, name: str) -> tuple[Amounts, Amounts]:
    """The requests and limits of the only pod that a service has."""
    path = PODS.format(namespace, name)
    wait_until(lambda: cluster.get(path)["items"], f"{name} has a pod")
    [pod] = cluster.get(path)["items"]
    [container] = (c for c in pod["spec"]["containers"] if c["name"] == "kserve-container")
    resources = container["resources"]
    return resources.get("requests", {}), resources.get("limits", {})


def _is_invalid(cluster: Cluster, namespace: str, name: str) -> bool:
    status = stored(cluster, namespace, f"{name}-kubectl").get("status", {})
    told = [c for c in status.get("conditions", ()) if c.get("reason") == "ReconcileFailed"]
    return any("invalid" in c["message"] for c in told)


def _told(resources: tuple[Amounts, Amounts]) -> str:
    requests, limits = (",".join(f"{k}={v}" for k, v in r.items()) or "-" for r in resources)
    return f"requests {requests} limits {limits}"
