"""Lives of services of Knative mode, recorded like those of Standard mode.

`python -m tests.cluster.knative.lives [NAME ...]` records them anew, all of them if none is named.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lab import booted_lab, wait_until
from tests.cluster.lives import AT_ONCE, ISVC, Life, Object, container, record

# So that Knative gives up on a Revision, and on its pods, while the recording lasts.
SOON = {"annotations": {"serving.knative.dev/progress-deadline": "15s"}}
AT_ZERO: Object = {"minReplicas": 0, "maxReplicas": 2}


def until_pods(life: Life, number: int) -> None:
    path = f"/api/v1/namespaces/{life.namespace}/pods"
    wait_until(lambda: len(life.lab.get(path)["items"]) == number, f"{number} pods", timeout=60)


def ready(life: Life) -> None:
    life.deploy(container(), wait=6)


def rollout(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.deploy(container("lab/slow:4s"), "m2", 12)


def quick_updates(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    for number in range(2, 9):
        life.deploy(container(f"ready:{number}"), f"m{number}", 0.5)
    time.sleep(12)


def scaling_alone(life: Life) -> None:
    life.deploy({**container(), "minReplicas": 1})
    life.until_ready()
    life.deploy({**container(), "minReplicas": 2, "scaleTarget": 7, "scaleMetric": "rps"}, wait=10)


def scale_to_zero(life: Life) -> None:
    life.deploy({**container(), **AT_ZERO})
    life.until_ready()
    until_pods(life, 0)
    life.deploy({**container(), "minReplicas": 1, "maxReplicas": 2}, wait=6)


def image_missing(life: Life) -> None:
    life.deploy(container("lab/missing:1"), wait=75, **SOON)


def update_crashes(life: Life) -> None:
    life.deploy(container(), **SOON)
    life.until_ready()
    life.deploy(container("lab/crash:1"), "m2", 150, **SOON)


def update_crashes_at_zero(life: Life) -> None:
    life.deploy({**container(), **AT_ZERO}, **SOON)
    life.until_ready()
    until_pods(life, 0)
    life.deploy({**container("lab/crash:1"), **AT_ZERO}, "m2", 75, **SOON)


def slow(life: Life) -> None:
    life.deploy(container("lab/slow:25s"), wait=35, **SOON)


def lie(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.deploy(container("lab/lie:1"), "m2", 30)


def never_scheduled(life: Life) -> None:
    huge = {"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}}
    life.deploy(container(resources=huge), wait=64)


def quota_fills(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.limit_pods(1)
    time.sleep(1)


def refused(life: Life) -> None:
    life.deploy({**container(), "nodeSelector": {"zone": "a"}}, wait=5)
    life.deploy(container(), "m2")
    life.until_ready(2)
    life.deploy({**container(), "nodeSelector": {"zone": "a"}}, "m3", 5)


def stop(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.edit({"metadata": {"annotations": {"serving.kserve.io/stop": "true"}}}, 8)
    life.edit({"metadata": {"annotations": {"serving.kserve.io/stop": "false"}}}, 8)


def canary(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.deploy({**container("ready:2"), "canaryTrafficPercent": 20}, "m2", 8)
    life.deploy({**container("ready:2"), "canaryTrafficPercent": 0}, "m2", 4)
    life.deploy(container("ready:2"), "m2", 4)


def transformer(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    life.edit({"spec": {"transformer": container("lab/slow:4s")}}, 12)


def unmanaged(life: Life) -> None:
    life.deploy_unmanaged(container())
    life.until_ready()
    life.edit({"spec": {"predictor": container("lab/slow:3s")}}, 9)


def delete(life: Life) -> None:
    life.deploy(container())
    life.until_ready()
    foreground = {"propagationPolicy": "Foreground"}
    life.lab.request("DELETE", f"/{ISVC.format(life.namespace)}", foreground)
    time.sleep(12)


LIVES: dict[str, Callable[[Life], None]] = {
    f"knative/{lead.__name__}": lead
    for lead in (
        update_crashes,
        update_crashes_at_zero,
        image_missing,
        never_scheduled,
        ready,
        rollout,
        quick_updates,
        scaling_alone,
        scale_to_zero,
        slow,
        lie,
        quota_fills,
        refused,
        stop,
        canary,
        transformer,
        unmanaged,
        delete,
    )
}


if __name__ == "__main__":
    with booted_lab(mode="knative") as lab, ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: record(lab, name, LIVES[name]), sys.argv[1:] or LIVES))
