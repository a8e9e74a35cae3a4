"""The readiness probe for the model reaches Knative's sidecar, which lets the traffic come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from tests.cluster.asking import Spec, container, deploy, model, wait_ready


def probe_of_sidecar(lab: Lab, namespace: str) -> dict[str, Any]:
    """What queue-proxy asks the serving container for."""
    [pod] = lab.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    [sidecar] = (c for c in pod["spec"]["containers"] if c["name"] == "queue-proxy")
    [probe] = (v["value"] for v in sidecar["env"] if v["name"] == "SERVING_READINESS_PROBE")
    read: dict[str, Any] = json.loads(probe)
    return read


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (model(), "/v1/models/iris"),
        (model(runtime="kserve-mlserver"), "/v2/models/iris/ready"),
        (container(env={"PROTOCOL": "v2"}), "/v2/health/ready"),
        (container(), None),
    ],
    ids=["sklearn", "kserve-mlserver", "container by v2", "container"],
)
def test_the_sidecar_asks_for_the_model(
    lab: Lab, stub: ModelServiceStub, namespace: str, spec: Spec, path: str | None
) -> None:
    made = deploy(stub, namespace, "iris", spec)
    wait_ready(stub, namespace, "iris", made.rollout_id)
    assert probe_of_sidecar(lab, namespace).get("httpGet", {}).get("path") == path
