"""Which readiness probe the pods get, by what KServe makes of the InferenceService."""

from __future__ import annotations

import time
from typing import Any

import pytest
from kubernetes.client.exceptions import NotFoundException
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until
from server.adapters.kserve.apply.runtime_reader import SHARED_FOR
from server.adapters.kserve.manifests.readiness_probe import TIMING

from .asking import Action, Spec, State, container, deploy, get, model, wait_ready
from .fixtures import StartReplica
from .objects import stored, unmanaged
from .recording import Recording

RUNTIME = "/apis/serving.kserve.io/v1alpha1/namespaces/{}/servingruntimes/{}"
DEPLOYMENT = "/apis/apps/v1/namespaces/{}/deployments/{}-predictor"
CHANGED = {"env": {"CHANGED": "yes"}}


def of_protocol(protocol: str, spec: Spec) -> Spec:
    spec.model.protocol_version = protocol
    return spec


def probe_of(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """The serving container's readiness probe, as it came to the Deployment."""
    template = cluster.get(DEPLOYMENT.format(namespace, name))["spec"]["template"]
    [serving] = (c for c in template["spec"]["containers"] if c["name"] == "kserve-container")
    probe: dict[str, Any] = serving["readinessProbe"]
    return probe


def asked_path(cluster: Cluster, namespace: str, name: str) -> str | None:
    """The path of an HTTP probe; None where only the port is tried."""
    path: str | None = probe_of(cluster, namespace, name).get("httpGet", {}).get("path")
    return path


def apply_runtime(cluster: Cluster, namespace: str, **serving: Any) -> None:
    """A runtime `mine` for the format `mine` in the namespace."""
    arguments = {"name": "kserve-container", "image": "mine:1", "args": ["--model_name={{.Name}}"]}
    cluster.apply(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ServingRuntime",
            "metadata": {"name": "mine", "namespace": namespace},
            "spec": {
                "supportedModelFormats": [{"name": "mine", "version": "1", "autoSelect": True}],
                "protocolVersions": ["v2"],
                "containers": [{**arguments, **serving}],
            },
        }
    )


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (model(), "/v1/models/iris"),
        (of_protocol("v2", model()), "/v2/models/iris/ready"),
        (model(runtime="kserve-sklearnserver"), "/v1/models/iris"),
        (model(runtime="kserve-mlserver"), "/v2/models/iris/ready"),
        (model("huggingface"), "/v1/models/iris"),
        (model("tensorflow", runtime="kserve-tensorflow-serving"), "/v1/models/iris"),
        (model("triton"), None),
        (container(), None),
        (container(env={"PROTOCOL": "v2"}), "/v2/health/ready"),
    ],
    ids=[
        "sklearn",
        "sklearn by v2",
        "kserve-sklearnserver",
        "kserve-mlserver",
        "huggingface",
        "kserve-tensorflow-serving",
        "triton",
        "container",
        "container by v2",
    ],
)
def test_the_pods_are_asked_for_their_model(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, spec: Spec, path: str | None
) -> None:
    made = deploy(stub, namespace, "iris", spec)
    wait_ready(stub, namespace, "iris", made.rollout_id)
    assert asked_path(cluster, namespace, "iris") == path
    if path:
        probe = probe_of(cluster, namespace, "iris")
        assert probe["httpGet"]["port"] == 8080
        assert {name: probe[name] for name in TIMING} == TIMING


def test_a_runtime_with_a_probe_of_its_own_is_left_alone(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    made = deploy(stub, namespace, "iris", model("vLLM"))
    wait_ready(stub, namespace, "iris", made.rollout_id)
    probe = probe_of(cluster, namespace, "iris")
    assert (probe["httpGet"]["path"], probe["periodSeconds"]) == ("/v1/models", 10)


def test_a_service_that_kserve_has_settled_is_not_written_again_for_its_probe(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    made = deploy(stub, namespace, "iris", model())
    wait_ready(stub, namespace, "iris", made.rollout_id)
    assert cluster.get(DEPLOYMENT.format(namespace, "iris"))["metadata"]["generation"] == 1


def test_get_shows_no_probe_and_what_it_shows_can_be_deployed_anew(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, replica: StartReplica
) -> None:
    spec = model()
    made = deploy(stub, namespace, "iris", spec)
    shown = get(stub, namespace, "iris").spec
    assert shown == spec
    for other in (stub, replica().stub):
        again = deploy(other, namespace, "iris", shown)
        assert (again.action, again.rollout_id) == (Action.ACTION_UNCHANGED, made.rollout_id)
    assert "readinessProbe" in stored(cluster, namespace, "iris")["spec"]["predictor"]["model"]


def test_a_runtime_that_changes_or_goes_away_is_no_change_of_a_service(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    apply_runtime(cluster, namespace)
    made = deploy(stub, namespace, "iris", model("mine", runtime="mine"))
    apply_runtime(cluster, namespace, ports=[{"containerPort": 9000}])
    again = deploy(stub, namespace, "iris", model("mine", runtime="mine"))
    assert (again.action, again.rollout_id) == (Action.ACTION_UNCHANGED, made.rollout_id)
    time.sleep(SHARED_FOR)
    deploy(stub, namespace, "iris", model("mine", runtime="mine", **CHANGED))
    wait_until(lambda: _asked_port(cluster, namespace) == 9000, "a change has the probe told anew")
    cluster.request("DELETE", RUNTIME.format(namespace, "mine"))
    again = deploy(stub, namespace, "iris", model("mine", runtime="mine", **CHANGED))
    assert again.action == Action.ACTION_UNCHANGED


def test_a_runtime_that_gets_a_probe_of_its_own_keeps_it_from_the_next_rollout_on(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    apply_runtime(cluster, namespace)
    made = deploy(stub, namespace, "iris", model("mine", runtime="mine"))
    wait_ready(stub, namespace, "iris", made.rollout_id)
    apply_runtime(cluster, namespace, readinessProbe={"exec": {"command": ["true"]}})
    wait_until(lambda: _is_stuck(cluster, namespace), "KServe meets two kinds of probe")
    # It goes on serving, while KServe can no longer make what the runtime asks for.
    heard = Recording(stub, namespace, "iris")
    status = heard.wait_state(State.STATE_DEGRADED, 1).status
    heard.close()
    assert status.serving
    assert "more than 1 handler type" in status.failure.message
    restarted = deploy(stub, namespace, "iris", restart=True)
    wait_ready(stub, namespace, "iris", restarted.rollout_id)
    assert "exec" in probe_of(cluster, namespace, "iris")


def test_a_runtime_that_comes_later_counts_from_the_next_rollout(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    deploy(stub, namespace, "iris", model("mine", runtime="mine"))
    apply_runtime(cluster, namespace)
    wait_until(lambda: _is_ready(stub, namespace), "KServe finds the runtime")
    assert asked_path(cluster, namespace, "iris") is None
    again = deploy(stub, namespace, "iris", model("mine", runtime="mine"))
    assert again.action == Action.ACTION_UNCHANGED
    restarted = deploy(stub, namespace, "iris", restart=True)
    assert restarted.action == Action.ACTION_RESTARTED
    wait_ready(stub, namespace, "iris", restarted.rollout_id)
    assert asked_path(cluster, namespace, "iris") == "/v2/models/iris/ready"


def test_a_change_of_the_kind_of_predictor_changes_the_probe_with_it(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    for spec, path in (
        (model(), "/v1/models/iris"),
        (container(env={"PROTOCOL": "v2"}), "/v2/health/ready"),
        (container(), None),
        (model(runtime="kserve-mlserver"), "/v2/models/iris/ready"),
    ):
        made = deploy(stub, namespace, "iris", spec)
        wait_ready(stub, namespace, "iris", made.rollout_id)
        assert asked_path(cluster, namespace, "iris") == path


@pytest.mark.parametrize("probe", [{"tcpSocket": {"port": 8080}}, {"exec": {"command": ["true"]}}])
def test_a_probe_of_an_adopted_service_gives_way_to_ours(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, probe: dict[str, Any]
) -> None:
    theirs = {
        "modelFormat": {"name": "sklearn"},
        "storageUri": "gs://b/m",
        "readinessProbe": probe,
    }
    cluster.apply(unmanaged(namespace, "iris", {"model": theirs}))
    wait_until(lambda: _is_seen(stub, namespace), "the server sees the service of somebody else")
    shown = get(stub, namespace, "iris")
    assert "spec.predictor.model.readinessProbe" in shown.status.message
    made = deploy(stub, namespace, "iris", shown.spec, force=True)
    wait_ready(stub, namespace, "iris", made.rollout_id)
    assert asked_path(cluster, namespace, "iris") == "/v1/models/iris"


def test_a_probe_that_somebody_adds_to_a_service_of_ours_stays(
    cluster: Cluster, stub: ModelServiceStub, namespace: str
) -> None:
    deploy(stub, namespace, "iris", model("triton"))
    probe = {"httpGet": {"path": "/v2/health/ready", "port": 8080}}
    patch = {"spec": {"predictor": {"model": {"readinessProbe": probe}}}}
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/iris"
    cluster.request("PATCH", path, patch, "application/merge-patch+json")
    made = deploy(stub, namespace, "iris", model("triton", **CHANGED))
    wait_ready(stub, namespace, "iris", made.rollout_id)
    assert asked_path(cluster, namespace, "iris") == "/v2/health/ready"


def _is_seen(stub: ModelServiceStub, namespace: str) -> bool:
    request = pb.ListRequest(namespace=namespace)
    return bool(stub.List(request).services)


def _is_stuck(cluster: Cluster, namespace: str) -> bool:
    conditions = stored(cluster, namespace, "iris")["status"]["conditions"]
    return any("more than 1 handler type" in c.get("message", "") for c in conditions)


def _asked_port(cluster: Cluster, namespace: str) -> int | None:
    try:
        probe = probe_of(cluster, namespace, "iris")
    except NotFoundException:  # KServe has not made the Deployment yet
        return None
    port: int | None = probe.get("httpGet", {}).get("port")
    return port


def _is_ready(stub: ModelServiceStub, namespace: str) -> bool:
    return get(stub, namespace, "iris").status.state == State.STATE_READY
