"""The life of a service of Knative mode by grpcurl, as the README leads it."""

from __future__ import annotations

import json
from typing import Any

from lab import Lab, wait_until
from tests.cluster.test_grpcurl import DEPLOY, WATCH, Grpcurl, container, grpcurl, until_ready

from .test_knative_lab import PODS

__all__ = ["grpcurl"]

DELETE = "modelservice.v1.ModelService/Delete"


def roll_out(
    grpcurl: Grpcurl, namespace: str, image: str, minimum: int, action: str
) -> dict[str, Any]:
    """Deploy iris and watch it until it is READY; its status then."""
    scaling = {"min_replicas": minimum, "max_replicas": 2, "metric": "rps", "target": 7}
    spec = {**container(image), "deployment_mode": "Knative", "scaling": scaling}
    done = grpcurl(DEPLOY, data={"namespace": namespace, "name": "iris", "spec": spec})
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["action"] == action
    watched = grpcurl(WATCH, data=until_ready(namespace, "iris", answer["rollout_id"]))
    assert watched.returncode == 0, watched.stderr
    status: dict[str, Any] = messages(watched.stdout)[-1]["service"]["status"]
    assert (status["state"], status["serving"]) == ("STATE_READY", True)
    assert status["deployment_mode"] == "Knative"
    return status


def messages(told: str) -> list[dict[str, Any]]:
    """What grpcurl printed, one JSON object after the other."""
    decoder, found = json.JSONDecoder(), []
    while told := told.lstrip():
        message, end = decoder.raw_decode(told)
        found.append(message)
        told = told[end:]
    return found


def traffic(status: dict[str, Any]) -> list[dict[str, Any]]:
    [component] = status["components"]
    return list(component["traffic"])


def test_a_service_is_deployed_updated_scaled_to_zero_and_back_and_deleted(
    lab: Lab, grpcurl: Grpcurl, namespace: str
) -> None:
    def pods() -> list[dict[str, Any]]:
        return list(lab.get(PODS.format(namespace))["items"])

    first = roll_out(grpcurl, namespace, "iris:1", 1, "ACTION_CREATED")
    assert traffic(first) == [{"revision": "iris-predictor-00001", "percent": 100}]
    second = roll_out(grpcurl, namespace, "iris:2", 1, "ACTION_UPDATED")
    assert traffic(second) == [{"revision": "iris-predictor-00002", "percent": 100}]

    roll_out(grpcurl, namespace, "iris:2", 0, "ACTION_UPDATED")
    wait_until(lambda: not pods(), "it is at zero")
    key = {"namespace": namespace, "name": "iris"}
    asleep = json.loads(grpcurl("modelservice.v1.ModelService/Get", data=key).stdout)["service"]
    assert (asleep["status"]["state"], asleep["status"]["serving"]) == ("STATE_READY", True)
    roll_out(grpcurl, namespace, "iris:2", 1, "ACTION_UPDATED")
    assert pods()

    assert grpcurl(DELETE, data=key).returncode == 0
    gone = grpcurl(WATCH, data={**key, "until": "UNTIL_GONE"})
    assert gone.returncode == 0, gone.stderr
    assert [p for p in pods() if "deletionTimestamp" not in p["metadata"]] == []
