"""k8s/: the server is told the same whether it runs as a Deployment or as a Knative Service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

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
