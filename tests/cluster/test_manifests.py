"""What k8s/ installs, as the API server takes it."""

from __future__ import annotations

import json
from typing import Any

from lab import Lab

from .kubectl import kubectl
from .serving import NAMESPACE, ROOT

OVERLAY = ROOT / "k8s" / "overlays" / "standard-registry"
DATABASE = {
    "name": "MODELSERVICE_DATABASE_URL",
    "valueFrom": {"secretKeyRef": {"name": "modelservice-database", "key": "url"}},
}


def test_with_a_registry_servers_and_the_job_that_migrates_have_the_url_of_one_secret(
    lab: Lab,
) -> None:
    if not kubectl(lab, "get", "namespace", NAMESPACE, "--ignore-not-found"):
        kubectl(lab, "create", "namespace", NAMESPACE)
    tried = ("--server-side", "--force-conflicts", "--dry-run=server", "-o", "json")
    taken = json.loads(kubectl(lab, "apply", "-k", str(OVERLAY), *tried))["items"]
    [servers] = _containers(taken, "Deployment")
    [migration] = _containers(taken, "Job")
    assert DATABASE in servers["env"]
    assert migration["env"] == [DATABASE]
    assert migration["args"] == ["migrate"]
    assert migration["image"] == servers["image"]
    assert migration["securityContext"] == servers["securityContext"]


def _containers(items: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    [found] = [item for item in items if item["kind"] == kind]
    containers: list[dict[str, Any]] = found["spec"]["template"]["spec"]["containers"]
    return containers
