"""The lab itself: real controllers, and pods that behave as on a real node."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes.client.exceptions import ApiException

from lab import Cluster, Lab, wait_until
from lab.control_plane import new_site
from lab.kwok import SimulatedNode
from lab.processes import Component, Sweeper

from .namespace_watch import WATCHED, NamespaceWatch
from .symptoms import about

INFERENCE_SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/{}"


def inference_service(name: str, namespace: str, predictor: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"predictor": predictor},
    }


def model(model_format: str) -> dict[str, Any]:
    return {"model": {"modelFormat": {"name": model_format}, "storageUri": "gs://bucket/model"}}


def container(image: str) -> dict[str, Any]:
    env = [{"name": "STORAGE_URI", "value": "gs://bucket/model"}]
    return {"containers": [{"name": "kserve-container", "image": image, "env": env}]}


def ready(cluster: Cluster, namespace: str, name: str) -> str:
    status = cluster.get(INFERENCE_SERVICES.format(namespace, name)).get("status", {})
    conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
    return str(conditions.get("Ready", ""))


def pod_status(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    selector = f"labelSelector=serving.kserve.io/inferenceservice%3D{name}"
    pods = cluster.get(f"/api/v1/namespaces/{namespace}/pods?{selector}")["items"]
    return dict(pods[0]["status"]) if pods else {}


def serving_container(status: dict[str, Any]) -> dict[str, Any]:
    return next(iter(status.get("containerStatuses", [])), {})


def waiting(status: dict[str, Any]) -> dict[str, Any]:
    return dict(serving_container(status).get("state", {}).get("waiting", {}))


@pytest.mark.parametrize(
    "predictor",
    [model("sklearn"), container("kserve/sklearnserver:latest")],
    ids=["model", "container"],
)
def test_an_inference_service_becomes_ready(
    cluster: Cluster, namespace: str, predictor: dict[str, Any]
) -> None:
    cluster.apply(inference_service("iris", namespace, predictor))
    wait_until(lambda: ready(cluster, namespace, "iris") == "True", "iris is Ready")


def test_scripted_pods_look_as_on_a_real_node(lab: Lab, namespace: str) -> None:
    predictors = {
        "slow": container("lab/slow:3s"),
        "missing": model("lab-missing"),
        "crash": container("lab/crash:3"),
        "init": model("lab-init-fails"),
        "unschedulable": container("any/image:1") | {"nodeSelector": {"no": "such-node"}},
    }
    watch = NamespaceWatch(lab, lab.tokens["admin"], namespace, {"pod": WATCHED["pod"]})
    for name, predictor in predictors.items():
        lab.apply(inference_service(name, namespace, predictor))

    def status(name: str) -> dict[str, Any]:
        return pod_status(lab, namespace, name)

    wait_until(lambda: waiting(status("missing")).get("reason") == "ImagePullBackOff", "no image")
    assert "docker.io/lab/missing:1: not found" in waiting(status("missing"))["message"]

    wait_until(lambda: waiting(status("crash")).get("reason") == "CrashLoopBackOff", "crash loop")
    crashed = serving_container(status("crash"))
    assert crashed["lastState"]["terminated"]["exitCode"] == 3
    assert crashed["restartCount"] >= 1

    wait_until(lambda: _failure(lab, namespace, "init"), "KServe reports the init container")
    assert _failure(lab, namespace, "init") == ("ModelLoadFailed", 1)

    wait_until(lambda: status("unschedulable").get("conditions"), "the scheduler has tried")
    [scheduled] = status("unschedulable")["conditions"]
    assert (scheduled["type"], scheduled["status"]) == ("PodScheduled", "False")
    assert scheduled["reason"] == "Unschedulable"

    wait_until(lambda: ready(lab, namespace, "slow") == "True", "slow is Ready")

    def ran() -> list[bool]:
        """Whether the started container of `slow` was ready, by each version of its pod."""
        containers = [serving_container(s.object["status"]) for s in about("slow", watch.seen)]
        return [container["ready"] for container in containers if container.get("started")]

    wait_until(lambda: True in ran(), "the watch has told it too")
    watch.close()
    assert ran()[0] is False


def _failure(cluster: Cluster, namespace: str, name: str) -> tuple[str, int] | None:
    status = cluster.get(INFERENCE_SERVICES.format(namespace, name)).get("status", {})
    info = status.get("modelStatus", {}).get("lastFailureInfo")
    return (info["reason"], info["exitCode"]) if info else None


def test_rights_are_real_and_every_request_is_told(lab: Lab) -> None:
    alice = Cluster(lab.kubeconfig_with(lab.tokens["alice"], "alice"), lab.folder)
    with pytest.raises(ApiException) as refused:
        alice.get("/api/v1/namespaces/model-serving/pods")
    assert refused.value.status == 403
    entry = lab.audit("alice")[-1]
    assert (entry.verb, entry.resource, entry.namespace, entry.code) == (
        "list",
        "pods",
        "model-serving",
        403,
    )


KILLED = """
import os, pathlib, sys
from lab.processes import Component, Sweeper

folder = pathlib.Path(sys.argv[1])
sleep = Component("sleep", ["sleep", "600"], logs=folder, sweeper=Sweeper(folder), ready=bool)
sleep.launch()
print(sleep.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_nothing_is_left_of_a_lab_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, folder], capture_output=True, text=True)
    wait_until(lambda: not folder.exists(), "its folder is gone")
    wait_until(lambda: _ended(int(killed.stdout)), "its process has ended")


def test_a_sweeper_that_is_ended_first_leaves_nothing_running_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    sweeper = Sweeper(folder)
    stopped, left = (
        Component(name, ["sleep", "600"], logs=folder, sweeper=sweeper, ready=bool)
        for name in ("stopped", "left")
    )
    stopped.launch()
    left.launch()
    assert left._process
    sweeper._process.kill()
    sweeper._process.wait()
    stopped.stop()
    sweeper._process.kill()
    sweeper._process.wait()
    sweeper.close()
    assert left._process.wait(60) == -signal.SIGKILL
    assert not folder.exists()


def test_a_lab_stops_whatever_part_of_it_is_gone_already(lab: Lab) -> None:
    with new_site(lab.site.programs) as site:
        own = Lab(site, SimulatedNode(site))
        own.components.etcd.start()
        own.apiserver.launch()
        own.components.scheduler.launch()
        parts = (own.apiserver, own.components.etcd, own.components.scheduler)
        pids = [part.pid for part in parts]
        for gone in (site.sweeper._process.pid, pids[0]):
            psutil.Process(gone).kill()
        own.stop()
    assert [pid for pid in pids if not _ended(pid)] == []
    assert not site.folder.exists()


def _ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
