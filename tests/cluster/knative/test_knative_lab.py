"""The lab in Knative mode: Knative Serving's own controllers under KServe's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab import Lab, wait_until
from tests.cluster.test_lab import container, inference_service, model, pod_status, ready

SERVING = "/apis/serving.knative.dev/v1/namespaces/{}/{}/{}"
PODS = "/api/v1/namespaces/{}/pods"


def knative_service(lab: Lab, namespace: str, name: str) -> dict[str, Any]:
    return lab.get(SERVING.format(namespace, "services", f"{name}-predictor"))


def revision(lab: Lab, namespace: str, name: str) -> dict[str, Any]:
    return lab.get(SERVING.format(namespace, "revisions", f"{name}-predictor-00001"))


def condition(found: dict[str, Any], kind: str) -> tuple[str, str]:
    conditions = found.get("status", {}).get("conditions", [])
    found_ones = [(c["status"], c.get("reason", "")) for c in conditions if c["type"] == kind]
    return next(iter(found_ones), ("", ""))


def containers(lab: Lab, namespace: str, name: str) -> dict[str, dict[str, Any]]:
    status = pod_status(lab, namespace, name)
    return {container["name"]: container for container in status.get("containerStatuses", [])}


def test_an_inference_service_becomes_ready_as_a_knative_service(lab: Lab, namespace: str) -> None:
    lab.apply(inference_service("iris", namespace, model("sklearn")))
    wait_until(lambda: ready(lab, namespace, "iris") == "True", "iris is Ready")
    behind = knative_service(lab, namespace, "iris")
    assert condition(behind, "Ready")[0] == "True"
    assert behind["status"]["latestReadyRevisionName"] == "iris-predictor-00001"


def test_what_nobody_calls_goes_to_zero_and_stays_ready(lab: Lab, namespace: str) -> None:
    lab.apply(inference_service("idle", namespace, {"minReplicas": 0, **model("sklearn")}))
    wait_until(lambda: ready(lab, namespace, "idle") == "True", "idle is Ready")
    wait_until(lambda: not lab.get(PODS.format(namespace))["items"], "idle has no pod")
    # The Revision is told after its Deployment is scaled.
    wait_until(
        lambda: condition(revision(lab, namespace, "idle"), "Active") == ("False", "NoTraffic"),
        "its Revision is not active",
    )
    assert ready(lab, namespace, "idle") == "True"


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (
            "lab/missing:1",
            lambda state: state.get("waiting", {}).get("reason") == "ImagePullBackOff",
        ),
        ("lab/crash:3", lambda state: state.get("waiting", {}).get("reason") == "CrashLoopBackOff"),
        ("lab/slow:1h", lambda state: "running" in state),
    ],
)
def test_scripted_pods_have_a_proxy_that_runs_and_is_not_ready(
    lab: Lab, namespace: str, image: str, told: Callable[[dict[str, Any]], bool]
) -> None:
    lab.apply(inference_service("iris", namespace, container(image)))

    seen: dict[str, dict[str, Any]] = {}

    def is_told() -> bool:
        seen.update(containers(lab, namespace, "iris"))
        return told(seen.get("kserve-container", {}).get("state", {}))

    wait_until(is_told, f"{image} is told")
    serving, proxy = seen["kserve-container"], seen["queue-proxy"]
    assert "running" in proxy["state"]
    assert (proxy["ready"], proxy["restartCount"]) == (False, 0)
    assert serving["ready"] is ("running" in serving["state"])

    def readiness() -> str:
        return condition(knative_service(lab, namespace, "iris"), "Ready")[0]

    wait_until(readiness, "Knative says whether it is ready")
    # Of a crash it says False once it has looked at the pod again.
    assert readiness() in ("Unknown", "False")


def test_a_slow_pod_is_ready_once_its_proxy_is(lab: Lab, namespace: str) -> None:
    lab.apply(inference_service("slow", namespace, container("lab/slow:3s")))
    wait_until(lambda: ready(lab, namespace, "slow") == "True", "slow is Ready")
    assert containers(lab, namespace, "slow")["queue-proxy"]["ready"]


def test_what_knative_refuses_is_refused(lab: Lab, namespace: str) -> None:
    predictor = container("lab/any:1") | {"nodeSelector": {"no": "such-node"}}
    lab.apply(inference_service("iris", namespace, predictor))

    def told() -> list[str]:
        events = lab.get(f"/api/v1/namespaces/{namespace}/events?fieldSelector=type%3DWarning")
        return [event["message"] for event in events["items"]]

    wait_until(lambda: any("webhook.serving.knative.dev" in text for text in told()), "the refusal")


def test_knative_works_again_at_once_after_the_api_server_was_away(
    lab: Lab, namespace: str
) -> None:
    lab.apiserver.stop()
    lab.apiserver.start()
    lab.restart_controllers()
    lab.apply(inference_service("after", namespace, model("sklearn")))
    wait_until(lambda: ready(lab, namespace, "after") == "True", "it is Ready")
