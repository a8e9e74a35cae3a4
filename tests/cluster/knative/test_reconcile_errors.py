"""A reconcile error that stands under a complete Knative Service is reported in KServe's words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab, wait_until
from tests.cluster.asking import Reason, State, container, deploy, has_failure, wait_ready
from tests.cluster.objects import OBJECT, stored
from tests.cluster.test_rollouts import Watching, watching

__all__ = ["watching"]

ADMISSION = "admissionregistration.k8s.io/v1"


@pytest.fixture
def frozen(lab: Lab, namespace: str) -> Iterator[None]:
    """A policy of the cluster that lets nobody update the namespace's Knative Services."""
    metadata = {"name": namespace}
    rule = {
        "apiGroups": ["serving.knative.dev"],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["services"],
    }
    policy = {
        "apiVersion": ADMISSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata,
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "frozen by the test"}],
        },
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "apiVersion": ADMISSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata,
        "spec": {
            "policyName": namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": selector},
        },
    }
    lab.apply(policy)
    lab.apply(binding)
    yield
    lab.delete(binding)
    lab.delete(policy)


def test_updates_of_the_knative_service_that_a_policy_denies_degrade_what_serves(
    lab: Lab,
    stub: ModelServiceStub,
    namespace: str,
    watching: Watching,
    request: pytest.FixtureRequest,
) -> None:
    first = deploy(stub, namespace, "iris", container())
    wait_ready(stub, namespace, "iris", first.rollout_id)
    heard = watching("iris")
    heard.wait_state(State.STATE_READY, 1)
    request.getfixturevalue("frozen")

    def reconcile_fails() -> bool:
        touch(lab, namespace)
        conditions: list[dict[str, Any]] = stored(lab, namespace, "iris")["status"]["conditions"]
        return any("frozen by the test" in c.get("message", "") for c in conditions)

    wait_until(reconcile_fails, "KServe cannot reconcile the Knative Service")
    degraded = heard.wait_state(State.STATE_DEGRADED, 1)
    assert Reason.Name(degraded.status.failure.reason) == "REASON_RECONCILE_FAILED"
    assert "frozen by the test" in degraded.status.failure.message
    assert degraded.status.serving


def test_a_configuration_of_somebody_else_in_the_way_is_named(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    cluster.apply(
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Configuration",
            "metadata": {"name": "iris-predictor", "namespace": namespace},
            "spec": {"template": {"spec": {"containers": [{"image": "ready:1"}]}}},
        }
    )
    heard = watching("iris")
    deploy(stub, namespace, "iris", container())
    failure = heard.wait(has_failure, "the Configuration is named").status.failure
    assert Reason.Name(failure.reason) == "REASON_RECONCILE_FAILED"
    assert failure.message.startswith("the Configuration iris-predictor has the name that this")
    assert failure.remedy.startswith("delete the Configuration iris-predictor if nobody needs it")


def touch(lab: Lab, namespace: str) -> None:
    """Have KServe reconcile, which it does at any change, without a change that it carries out."""
    condition = {"type": "Touched", "status": "True"}
    add = [{"op": "add", "path": "/status/conditions/-", "value": condition}]
    path = f"{OBJECT.format(namespace, 'iris')}/status"
    lab.request("PATCH", path, add, "application/json-patch+json")
