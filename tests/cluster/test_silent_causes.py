"""What somebody else did to a rollout is reported with its cause, and not as the caller's fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from grpc import StatusCode
from kubernetes.client.exceptions import ApiException
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until
from server.domain.service.inference_service import ServiceKey

from .asking import Reason, State, container, deploy, model, wait_ready
from .direct import edit
from .recording import Recording, Until
from .test_rollouts import Watching, watching

__all__ = ["watching"]

ADMISSION = "admissionregistration.k8s.io/v1"


def runtime(namespace: str, image: str) -> dict[str, object]:
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "teams-own", "namespace": namespace},
        "spec": {
            "supportedModelFormats": [{"name": "sklearn", "version": "1"}],
            "containers": [{"name": "kserve-container", "image": image}],
        },
    }


def test_a_serving_runtime_whose_edit_breaks_a_rollout_is_named_as_the_cause(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    cluster.apply(runtime(namespace, "lab/slow:1s"))
    rollout_id = deploy(stub, namespace, "iris", model(runtime="teams-own")).rollout_id
    wait_ready(stub, namespace, "iris", rollout_id)
    heard = watching("iris")
    heard.wait_state(State.STATE_READY, 1)

    cluster.apply(runtime(namespace, "lab/slow:5s"))
    changed = "the serving runtime teams-own was changed"
    heard.wait(
        lambda s: s.status.state == State.STATE_PROGRESSING and changed in s.status.message,
        "the pods are replaced",
    )
    wait_ready(stub, namespace, "iris", rollout_id)

    cluster.apply(runtime(namespace, "lab/missing:1"))
    degraded = heard.wait(
        lambda s: (
            s.status.state == State.STATE_DEGRADED
            and s.status.failure.reason == Reason.REASON_IMAGE_PULL
        ),
        "the image is missing",
    )
    failure = degraded.status.failure
    assert failure.message.startswith(changed), failure.message
    assert "correct the serving runtime teams-own" in failure.remedy


def test_a_wait_that_somebody_elses_write_ends_names_the_field_manager(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    answer = deploy(stub, namespace, "iris", container("lab/slow:60s"))
    waited = watching("iris", until=Until.UNTIL_READY, rollout_id=answer.rollout_id)
    waited.wait(lambda s: s.generation == 1, "it is waited for")
    edit(cluster, ServiceKey(namespace, "iris"), {"spec": {"predictor": {"maxReplicas": 3}}})
    refusal = waited.end()
    assert refusal
    assert (refusal.code, refusal.reason) == (StatusCode.ABORTED, "ROLLOUT_SUPERSEDED")
    assert "kubectl-edit" in refusal.message


@pytest.fixture
def stuck(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A namespace in which a policy of the cluster lets nobody delete an InferenceService."""
    name = f"{namespace}-stuck"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    rule = {
        "apiGroups": ["serving.kserve.io"],
        "apiVersions": ["*"],
        "operations": ["DELETE"],
        "resources": ["inferenceservices"],
    }
    policy = {
        "apiVersion": ADMISSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "kept by the test"}],
        },
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    binding = {
        "apiVersion": ADMISSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": selector},
        },
    }
    made = (manifest, policy, binding)
    for one in made:
        cluster.apply(one)
    yield name
    for one in reversed(made):
        with suppress(ApiException):  # the test has deleted the namespace
            cluster.delete(one)


def test_a_namespace_that_is_being_deleted_is_said_so_before_its_service_is(
    cluster: Cluster, stub: ModelServiceStub, stuck: str
) -> None:
    answer = deploy(stub, stuck, "iris", container())
    wait_ready(stub, stuck, "iris", answer.rollout_id)
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{stuck}/inferenceservices/iris"

    def is_kept() -> bool:
        try:
            cluster.request("DELETE", f"{path}?dryRun=All")
        except ApiException:
            return True
        return False

    wait_until(is_kept, "the policy holds")
    heard = Recording(stub, stuck, "iris")
    cluster.request("DELETE", f"/api/v1/namespaces/{stuck}")
    going = heard.wait_state(State.STATE_DELETING, 1)
    heard.close()
    assert "namespace is being deleted" in going.status.message
    assert "deletionTimestamp" not in cluster.get(path)["metadata"]
    waited = Recording(stub, stuck, "iris", until=Until.UNTIL_READY, rollout_id=answer.rollout_id)
    refusal = waited.end()
    assert refusal
    assert refusal.reason == "ROLLOUT_GONE"
