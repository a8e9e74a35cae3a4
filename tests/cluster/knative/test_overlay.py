"""k8s/overlays/knative-all-namespaces: our server as a Knative Service that the webhook accepts."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import split
from typing import Any

import pytest

from lab import Lab, wait_until
from tests.cluster.kubectl import kubectl
from tests.cluster.serving import NAMESPACE, ROOT, make_room_for_knative
from tests.transcript import transcript

from .test_knative_lab import condition

OVERLAY = str(ROOT / "k8s/overlays/knative-all-namespaces")
SERVICE = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/services/modelservice"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
POLICY = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies/modelservice"


@pytest.fixture(scope="module")
def service(lab: Lab) -> Iterator[dict[str, Any]]:
    """The Knative Service once it is Ready."""
    make_room_for_knative(lab)
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", OVERLAY)
    wait_until(lambda: condition(lab.get(SERVICE), "Ready")[0] == "True", "the server is Ready")
    made = lab.get(SERVICE)
    yield made
    lab.delete(made)


def test_it_is_ready_and_has_no_address_outside_the_cluster(service: dict[str, Any]) -> None:
    url = service["status"]["url"]
    assert url == f"http://modelservice.{NAMESPACE}.svc.cluster.local"


def test_the_commands_of_the_document_make_room_and_install(
    lab: Lab, service: dict[str, Any]
) -> None:
    """The first one made room for the service; the second one is tried on the same objects."""
    _delete, apply = transcript("docs/operations.md", "As a Knative Service")
    command = apply.command.replace("k8s/overlays", str(ROOT / "k8s/overlays"))
    assert "modelservice" in kubectl(lab, *split(command)[1:], "--dry-run=server")


def test_one_pod_runs_where_nobody_calls(lab: Lab, service: dict[str, Any]) -> None:
    [pod] = lab.get(PODS)["items"]
    assert pod["spec"]["serviceAccountName"] == "modelservice"
    # Knative's own limit on every call, and how long a pod may take to go.
    assert pod["spec"]["terminationGracePeriodSeconds"] == 600


def test_its_network_policy_names_ports_that_its_pods_have(
    lab: Lab, service: dict[str, Any]
) -> None:
    [pod] = lab.get(PODS)["items"]
    had = {port["name"] for c in pod["spec"]["containers"] for port in c.get("ports", [])}
    [rule] = lab.get(POLICY)["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} <= had
