"""Lives of services, led on a lab of their own and recorded for the tests of status reading.

`python -m tests.cluster.lives [NAME ...]` records them anew, all of them if none is named.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lab import Lab, booted_lab, wait_until
from tests.adapters.kserve.replaying import RECORDED

from .life_recording import LifeRecording

Object = dict[str, Any]

AT_ONCE = 3
URI = "gs://kfserving-examples/models/sklearn/1.0/model"
ISVC = "apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/iris"


def container(image: str = "ready:1", **more: object) -> Object:
    return {"containers": [{"name": "kserve-container", "image": image, **more}]}


def model(name: str = "sklearn", uri: str = URI, **more: object) -> Object:
    return {"model": {"modelFormat": {"name": name}, "storageUri": uri, **more}}


@dataclass
class Life:
    """The service `iris` in a namespace of its own, and what is done to it."""

    lab: Lab
    namespace: str
    recording: LifeRecording

    def deploy(
        self, predictor: Object, marker: str = "m1", wait: float = 0, **metadata: Object
    ) -> None:
        """Write it as our server does: its manager, its label, a marker; wait so many seconds."""
        labels = {"app.kubernetes.io/managed-by": "modelservice", **metadata.pop("labels", {})}
        marked = {**predictor, "annotations": {"modelservice.dev/rollout": marker}}
        self._apply(marked, "modelservice", {"labels": labels, **metadata})
        time.sleep(wait)

    def deploy_unmanaged(self, predictor: Object) -> None:
        self._apply(predictor, "kubectl", {})

    def until_ready(self, then: float = 1) -> None:
        path = f"/{ISVC.format(self.namespace)}"
        wait_until(lambda: _is_ready(self.lab.get(path)), "iris is ready", timeout=60)
        time.sleep(then)

    def edit(self, body: Object, wait: float) -> None:
        """As kubectl edit does."""
        self.patch(f"/{ISVC.format(self.namespace)}", body, wait)

    def scale(self, replicas: int, wait: float) -> None:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/iris-predictor/scale"
        self.patch(path, {"spec": {"replicas": replicas}}, wait)

    def patch(self, path: str, body: Object, wait: float = 0) -> None:
        query = "?fieldManager=kubectl-edit"
        self.lab.request("PATCH", path + query, body, "application/merge-patch+json")
        time.sleep(wait)

    def limit_pods(self, most: int) -> None:
        metadata = {"name": "quota", "namespace": self.namespace}
        hard = {"hard": {"pods": str(most)}}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": hard}
        self.lab.apply(quota)
        time.sleep(1)

    def _apply(self, predictor: Object, manager: str, metadata: Object) -> None:
        manifest = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"namespace": self.namespace, "name": "iris", **metadata},
            "spec": {"predictor": predictor},
        }
        self.recording.written(self.lab.apply(manifest, field_manager=manager))


def once(predictor: Object, seconds: float) -> Callable[[Life], None]:
    """Deployed, and left to itself."""
    return lambda life: life.deploy(predictor, wait=seconds)


def then(first: Object, *later: tuple[Object, float]) -> Callable[[Life], None]:
    """Deployed until it is READY, then rolled out again and again."""

    def lead(life: Life) -> None:
        life.deploy(first)
        life.until_ready()
        for number, (predictor, seconds) in enumerate(later, 2):
            back = predictor == first
            life.deploy(predictor, "m1" if back else f"m{number}", seconds)

    return lead


def labels_alone(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.deploy(container(), "m2", 5, labels={"team": "x"})


def updates_disabled(life: Life) -> None:
    ignoring = {"serving.kserve.io/disable-auto-update": "true"}
    life.deploy(container(), annotations=ignoring)
    life.until_ready()
    life.deploy(container("ready:2"), "m2", 4, annotations=ignoring)


def scaling_alone(life: Life) -> None:
    slow = container("lab/slow:3s")
    life.deploy({**slow, "minReplicas": 1, "maxReplicas": 1})
    life.until_ready(6)
    life.deploy({**slow, "minReplicas": 3, "maxReplicas": 4}, wait=28)


def scale_up_fails(life: Life) -> None:
    life.deploy({**container(), "minReplicas": 1, "maxReplicas": 1})
    life.until_ready(6)
    life.limit_pods(1)
    life.deploy({**container(), "minReplicas": 3, "maxReplicas": 3}, wait=30)


def scale_to_zero(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.scale(0, 5)
    life.scale(1, 5)


def stop(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.edit({"metadata": {"annotations": {"serving.kserve.io/stop": "True"}}}, 5)
    life.edit({"metadata": {"annotations": {"serving.kserve.io/stop": "false"}}}, 5)


def delete(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    foreground = {"propagationPolicy": "Foreground"}
    life.lab.request("DELETE", f"/{ISVC.format(life.namespace)}", foreground)
    time.sleep(5)


def pod_deleted(life: Life) -> None:
    life.deploy(container("lab/slow:3s"))
    life.until_ready(6)
    pods = f"/api/v1/namespaces/{life.namespace}/pods"
    life.lab.request("DELETE", f"{pods}/{life.lab.get(pods)['items'][0]['metadata']['name']}")
    time.sleep(8)


def transformer(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.edit({"spec": {"transformer": container("lab/slow:4s")}}, 9)
    life.edit({"spec": {"transformer": None}}, 6)


def managed_edit(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.edit({"spec": {"predictor": container("lab/slow:3s")}}, 7)


def unmanaged_container(life: Life) -> None:
    env = [{"name": "STORAGE_URI", "value": URI}]
    resources = {"requests": {"memory": "0.5Gi"}}
    life.deploy_unmanaged(container(env=env, args=["--x"], resources=resources))
    life.until_ready()
    life.edit({"spec": {"predictor": container("lab/slow:3s")}}, 7)


def unmanaged_edits(life: Life) -> None:
    resources = {"requests": {"cpu": "1000m"}, "limits": {"cpu": "1000m"}}
    env = [{"name": "X", "value": "1"}]
    life.deploy_unmanaged(model(args=["--a=1"], env=env, resources=resources))
    life.until_ready()
    for changed, seconds in (
        ({"storageUri": "gs://other/model"}, 4),
        ({"runtime": "kserve-mlserver", "protocolVersion": "v2"}, 4),
        ({"runtime": "no-such"}, 5),
    ):
        life.edit({"spec": {"predictor": {"model": changed}}}, seconds)


def quota(life: Life) -> None:
    life.limit_pods(0)
    life.deploy(container(), wait=14)


def rejected(life: Life) -> None:
    enforced = {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    life.patch(f"/api/v1/namespaces/{life.namespace}", {"metadata": enforced})
    life.deploy(container(), wait=13)


LIVES: dict[str, Callable[[Life], None]] = {
    "ready": once(container(), 4),
    "ready_model": once(model(), 4),
    "slow": once(container("lab/slow:6s"), 10),
    "named_predictor": once({**container(), "name": "blue"}, 4),
    "image_missing": once(container("lab/missing:1"), 16),
    "crash": once(container("lab/crash:1"), 14),
    "exits_zero": once(container("lab/crash:0"), 14),
    "oom": once(container("lab/crash:137"), 6),
    "crash_once": once(container("lab/crash-once:1"), 66),
    "lie": once(container("lab/lie:1"), 30),
    "init_fails": once(model("lab-init-fails"), 8),
    "model_crash": once(model("lab-crash"), 8),
    "never_scheduled": once({**container(), "nodeSelector": {"no": "where"}}, 63),
    "pvc_missing": once(model(uri="pvc://nothere/x"), 13),
    "unknown_format": once(model("no-such"), 6),
    "unknown_runtime": once(model(runtime="no-such"), 6),
    "bad_scheme": once(model(uri="ftp://nowhere/model"), 6),
    "invalid_pod": once(container(env=[{"name": "A=B", "value": "x"}]), 6),
    "rollout": then(container(), (container("lab/slow:5s"), 10)),
    "rollout_fails": then(container(), (container("lab/missing:2"), 6)),
    "rollback_slow": then(
        container("lab/slow:5s"), (container("ready:2"), 8), (container("lab/slow:5s"), 20)
    ),
    "update_unknown_runtime_then_fix": then(
        model(),
        (model(runtime="no-such"), 5),
        (model(runtime="still-none"), 5),
        (model(args=["--x=1"]), 12),
    ),
    "update_bad_scheme": then(
        model(), (model(uri="ftp://nowhere/model"), 5), (model(uri="ftp://nowhere/model2"), 5)
    ),
    **{
        lead.__name__: lead
        for lead in (
            labels_alone,
            updates_disabled,
            scaling_alone,
            scale_up_fails,
            scale_to_zero,
            stop,
            delete,
            pod_deleted,
            transformer,
            managed_edit,
            unmanaged_container,
            unmanaged_edits,
            quota,
            rejected,
        )
    },
}


def record(lab: Lab, name: str, lead: Callable[[Life], None]) -> None:
    """Lead this life in a fresh namespace, and write it down."""
    namespace = f"life-{uuid.uuid4().hex[:10]}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    lab.apply(manifest)
    life = Life(lab, namespace, LifeRecording(lab, namespace))
    lead(life)
    life.recording.save(RECORDED / f"{name}.json")
    lab.delete(manifest)


def _is_ready(service: Object) -> bool:
    conditions = service.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


if __name__ == "__main__":
    with booted_lab() as lab, ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: record(lab, name, LIVES[name]), sys.argv[1:] or LIVES))
