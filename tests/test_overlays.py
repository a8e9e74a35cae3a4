"""k8s/: the server is told the same whether it runs as a Deployment or as a Knative Service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from server import settings

K8S = Path(__file__).parents[1] / "k8s"


def template(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load((K8S / path).read_text())["spec"]["template"]["spec"])


@pytest.fixture
def deployed() -> dict[str, Any]:
    return template("base/deployment.yaml")


@pytest.fixture
def knative() -> dict[str, Any]:
    return template("components/knative/service.yaml")


def test_both_run_the_same_container(deployed: dict[str, Any], knative: dict[str, Any]) -> None:
    [one], [other] = deployed["containers"], knative["containers"]
    # Knative has no security of a pod, and tells HTTP/2 by the port's name.
    other["securityContext"] = {
        name: setting
        for name, setting in other["securityContext"].items()
        if name not in deployed["securityContext"]
    }
    other["ports"][0]["name"] = one["ports"][0]["name"]
    assert one == other


def test_both_are_as_unprivileged(deployed: dict[str, Any], knative: dict[str, Any]) -> None:
    granted = deployed["securityContext"] | deployed["containers"][0]["securityContext"]
    assert knative["containers"][0]["securityContext"] == granted


def test_both_act_as_the_same_account(deployed: dict[str, Any], knative: dict[str, Any]) -> None:
    for field in ("serviceAccountName", "enableServiceLinks"):
        assert knative[field] == deployed[field]


@pytest.fixture
def with_tls() -> dict[str, Any]:
    """What the component adds to the Deployment."""
    return template("components/tls/deployment.yaml")


def test_the_tls_component_gives_settings_that_are_there(with_tls: dict[str, Any]) -> None:
    [container] = with_tls["containers"]
    known = {variable for variable, _ in settings.described()}
    assert {variable["name"] for variable in container["env"]} <= known


def test_the_tls_component_has_every_probe_ask_the_listener_for_probes(
    with_tls: dict[str, Any], deployed: dict[str, Any]
) -> None:
    [container], [base] = with_tls["containers"], deployed["containers"]
    [port] = container["ports"]
    probes = {name: container[name]["grpc"] for name in base if name.endswith("Probe")}
    assert len(probes) == 3
    assert all(asked == {"port": port["containerPort"]} for asked in probes.values())


def test_the_network_policy_admits_nobody_at_the_listener_for_probes(
    with_tls: dict[str, Any],
) -> None:
    policy = yaml.safe_load((K8S / "base/network-policy.yaml").read_text())
    admitted = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    [container] = with_tls["containers"]
    assert admitted.isdisjoint({port["name"] for port in container["ports"]})


def test_the_certificate_of_cert_manager_is_the_secret_that_is_mounted(
    with_tls: dict[str, Any],
) -> None:
    path = K8S / "components/cert-manager/certificate.yaml"
    certificate = yaml.safe_load(path.read_text())["spec"]
    [volume] = with_tls["volumes"]
    assert volume["secret"] == {"secretName": certificate["secretName"]}
    # As docs/operations.md has callers find the server.
    assert "modelservice.modelservice" in certificate["dnsNames"]
