"""The lab in Knative mode: Knative Serving's own controllers under KServe's."""

from __future__ import annotations

from typing import Any

from tests.cluster.lab import Lab, wait_until
from tests.cluster.test_lab import inference_service, model, ready

SERVICES = "/apis/serving.knative.dev/v1/namespaces/{}/services/{}"


def conditions(knative_service: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in knative_service["status"]["conditions"]}


def test_an_inference_service_becomes_ready_as_a_knative_service(lab: Lab, namespace: str) -> None:
    lab.apply(inference_service("iris", namespace, model("sklearn")))
    wait_until(lambda: ready(lab, namespace, "iris") == "True", "iris is Ready")
    behind = lab.get(SERVICES.format(namespace, "iris-predictor"))
    assert conditions(behind)["Ready"] == "True"
    assert behind["status"]["latestReadyRevisionName"] == "iris-predictor-00001"
