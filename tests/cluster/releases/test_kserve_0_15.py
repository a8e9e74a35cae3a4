"""KServe 0.15, which knows the deployment modes by other names than the releases after it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, wait_until
from tests.cluster import kubectl
from tests.cluster.asking import (
    Action,
    Reason,
    Spec,
    State,
    container,
    delete,
    deploy,
    model,
    scaling,
    wait_gone,
    wait_ready,
)
from tests.cluster.objects import stored
from tests.cluster.recording import Recording
from tests.cluster.serving import ROOT
from tests.cluster.test_rollouts import available, pods
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused

pytestmark = pytest.mark.parametrize("release_lab", ["0.15"], indirect=True)

MODE = "serving.kserve.io/deploymentMode"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceservices.serving.kserve.io"


@pytest.mark.parametrize("mode", ["Standard", ""], ids=["named", "unnamed"])
def test_a_service_lives_from_its_deploy_to_its_end(
    lab: Lab, stub: ModelServiceStub, namespace: str, mode: str
) -> None:
    spec = model(deployment_mode=mode)
    first = deploy(stub, namespace, "iris", spec, request_id="job-1")
    assert first.action == Action.ACTION_CREATED
    ready = wait_ready(stub, namespace, "iris", first.rollout_id)
    assert ready.status.state == State.STATE_READY
    assert ready.status.deployment_mode == "Standard"
    assert ready.spec == spec
    held = stored(lab, namespace, "iris")
    assert held["status"]["deploymentMode"] == "RawDeployment"
    assert held["metadata"]["annotations"][MODE] == "RawDeployment"

    for again in (spec, ready.spec):
        same = deploy(stub, namespace, "iris", again)
        assert (same.action, same.rollout_id) == (Action.ACTION_UNCHANGED, first.rollout_id)
    replayed = deploy(stub, namespace, "iris", spec, request_id="job-1")
    assert (replayed.action, replayed.rollout_id) == (Action.ACTION_CREATED, first.rollout_id)

    other = model(env={"A": "1"}, deployment_mode=mode)
    rolled = deploy(stub, namespace, "iris", other)
    assert rolled.action == Action.ACTION_UPDATED
    assert wait_ready(stub, namespace, "iris", rolled.rollout_id).spec == other
    restarted = deploy(stub, namespace, "iris", restart=True)
    assert restarted.action == Action.ACTION_RESTARTED
    wait_ready(stub, namespace, "iris", restarted.rollout_id)
    assert deploy(stub, namespace, "iris", other).action == Action.ACTION_UNCHANGED

    assert delete(stub, namespace, "iris").service.status.state == State.STATE_DELETING
    wait_gone(stub, namespace, "iris")
    assert not kubectl.exists(lab, namespace, "iris")


def test_a_change_of_scaling_alone_replaces_no_pod(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    first = deploy(stub, namespace, "iris", container(scaling=scaling(1)))
    wait_ready(stub, namespace, "iris", first.rollout_id)
    [pod] = pods(lab, namespace, "iris")
    scaled = deploy(stub, namespace, "iris", container(scaling=scaling(2)))
    assert scaled.action == Action.ACTION_UPDATED
    told = Recording(stub, namespace, "iris")
    told.wait(
        lambda s: s.status.state == State.STATE_READY and available(s) == 2, "two pods are ready"
    )
    told.close()
    assert pod["metadata"]["uid"] in {p["metadata"]["uid"] for p in pods(lab, namespace, "iris")}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (container("lab/missing:1"), Reason.REASON_IMAGE_PULL),
        (container("lab/crash:3"), Reason.REASON_CRASH_LOOP),
        (model("lab-init-fails"), Reason.REASON_STORAGE_DOWNLOAD),
        (model("no-such-format"), Reason.REASON_NO_RUNTIME),
        (model(runtime="no-such-runtime"), Reason.REASON_NO_RUNTIME),
        (model(uri="ftp://host/model"), Reason.REASON_STORAGE_SCHEME),
    ],
    ids=["image", "crash", "download", "format", "runtime", "scheme"],
)
def test_a_rollout_that_cannot_work_fails_with_its_cause_and_a_fix_is_ready(
    stub: ModelServiceStub, namespace: str, spec: Spec, reason: Reason.ValueType
) -> None:
    failing = deploy(stub, namespace, "iris", spec)
    told = Recording(stub, namespace, "iris")
    failed = told.wait_state(State.STATE_FAILED, 1)
    told.close()
    assert failed.status.failure.reason == reason
    assert failed.status.failure.rollout_id == failing.rollout_id
    fixed = deploy(stub, namespace, "iris", container())
    wait_ready(stub, namespace, "iris", fixed.rollout_id)


def test_knative_mode_is_refused_where_there_is_no_knative(
    stub: ModelServiceStub, namespace: str
) -> None:
    request = pb.DeployRequest(
        namespace=namespace, name="iris", spec=container(deployment_mode="Knative")
    )
    refused(StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_BY_CLUSTER", stub.Deploy, request)


def test_what_0_15_does_not_act_on_is_refused_or_disregarded(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    stop = {"serving.kserve.io/stop": "true"}
    request = pb.DeployRequest(namespace=namespace, name="iris", spec=container(), annotations=stop)
    refusal = refused(
        StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_BY_CLUSTER", stub.Deploy, request
    )
    assert "KServe 0.15" in refusal.message
    first = deploy(stub, namespace, "iris", container())
    wait_ready(stub, namespace, "iris", first.rollout_id)
    off = {"serving.kserve.io/disable-auto-update": "true"}
    for theirs in (stop, off):
        text = " ".join(f"{key}={value}" for key, value in theirs.items())
        kubectl.kubectl(lab, "annotate", "isvc", "iris", "-n", namespace, *text.split())
    second = deploy(stub, namespace, "iris", container(env={"A": "1"}))
    assert second.action == Action.ACTION_UPDATED
    wait_ready(stub, namespace, "iris", second.rollout_id)


def test_the_children_of_a_service_may_have_the_names_that_a_former_release_gave_them(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    former = {"name": "iris-predictor-default", "namespace": namespace}
    spec = {"ports": [{"port": 80}]}
    lab.apply({"apiVersion": "v1", "kind": "Service", "metadata": former, "spec": spec})
    first = deploy(stub, namespace, "iris", container())
    assert available(wait_ready(stub, namespace, "iris", first.rollout_id)) == 1
    assert lab.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/iris-predictor-default")


def test_the_serving_runtime_is_the_one_that_the_spec_names(
    stub: ModelServiceStub, namespace: str
) -> None:
    named = deploy(stub, namespace, "iris", model(runtime="kserve-sklearnserver"))
    ready = wait_ready(stub, namespace, "iris", named.rollout_id)
    assert ready.status.serving_runtime == "kserve-sklearnserver"
    found = deploy(stub, namespace, "roses", model())
    assert not wait_ready(stub, namespace, "roses", found.rollout_id).status.serving_runtime


def test_a_kserve_that_is_older_is_refused_at_the_start_by_name(lab: Lab, tmp_path: Path) -> None:
    with older_than_0_15(lab):
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}",
            "KSERVE_ENABLED": "true",
            "KUBERNETES_KUBECONFIG": str(lab.kubeconfig),
            "MODELSERVICE_LISTEN": "127.0.0.1:0",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "server"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("modelservice: KSERVE_ENABLED: the cluster's KServe is older than 0.15")
    assert "upgrade KServe" in last


@contextmanager
def older_than_0_15(lab: Lab) -> Iterator[None]:
    """With the schema of an InferenceService as KServe 0.14 has it, in what tells the two apart."""
    present = lab.get(CRD)["spec"]["versions"]
    older = copy.deepcopy(present)
    for version in older:
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
        del status["properties"]["deploymentMode"]
    _publish(lab, older)
    try:
        yield
    finally:
        _publish(lab, present)


def _publish(lab: Lab, versions: list[dict[str, Any]]) -> None:
    """Change the CRD, and wait until its schema is the one that is published."""
    before = _published(lab)
    change = {"spec": {"versions": versions}}
    lab.request("PATCH", CRD, change, "application/merge-patch+json")
    wait_until(lambda: _published(lab) != before, "the API server publishes the schema")


def _published(lab: Lab) -> Any:
    return lab.get("/openapi/v3")["paths"]["apis/serving.kserve.io/v1beta1"]
