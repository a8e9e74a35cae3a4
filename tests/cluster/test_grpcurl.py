"""What a CI job does with grpcurl and without any proto file: deploy, wait, read the exit code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from lab import Lab, wait_until
from lab.credentials import write_kubeconfig
from tests.patience import PATIENCE_SECONDS

from .asking import MODEL, SKLEARN_IMAGE
from .fixtures import StartReplica
from .serving import STOP_SECONDS, Replicas, Server

DEPLOY = "modelservice.v1.ModelService/Deploy"
WATCH = "modelservice.v1.ModelService/WatchStatus"
STOP = "serving.kserve.io/stop"

Grpcurl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def grpcurl(lab: Lab, server: Server) -> Grpcurl:
    """Runs grpcurl on the server, or on another `address`."""

    def run(
        *arguments: str, data: dict[str, Any] | str = "", address: str = server.address
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(lab, address, *arguments, data=data), capture_output=True, text=True
        )

    return run


def command(
    lab: Lab,
    address: str,
    *arguments: str,
    data: dict[str, Any] | str = "",
    seconds: float = PATIENCE_SECONDS,
) -> list[str]:
    """The command line; `arguments` end with the method."""
    *flags, method = arguments
    asked = ["-d", data if isinstance(data, str) else json.dumps(data)] if data else []
    time_limit = ["-max-time", str(seconds)]
    grpcurl = str(lab.programs["grpcurl"])
    return [grpcurl, "-plaintext", *time_limit, *flags, *asked, address, method]


def container(image: str, **env: str) -> dict[str, Any]:
    return {"container": {"image": image}, "env": {"STORAGE_URI": MODEL} | env}


def rollout(grpcurl: Grpcurl, namespace: str, name: str, spec: dict[str, Any]) -> str:
    """Deploy; the rollout_id."""
    done = grpcurl(DEPLOY, data={"namespace": namespace, "name": name, "spec": spec})
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["rollout_id"])


def until_ready(namespace: str, name: str, rollout_id: str) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "name": name,
        "until": "UNTIL_READY",
        "rollout_id": rollout_id,
    }


def waiting(
    lab: Lab, server: Server, namespace: str, name: str, rollout_id: str
) -> subprocess.Popen[str]:
    """A wait for READY that has told the state at its opening."""
    data = until_ready(namespace, name, rollout_id)
    process = subprocess.Popen(
        command(lab, server.address, WATCH, data=data),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "TYPE_SYNCED" in line:
            break
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what it complained of."""
    _, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, complaint


def test_the_services_are_listed(grpcurl: Grpcurl) -> None:
    listed = grpcurl("list").stdout.split()
    assert "modelservice.v1.ModelService" in listed
    assert "grpc.health.v1.Health" in listed


def health(grpcurl: Grpcurl, service: str = "", **where: str) -> str:
    done = grpcurl("grpc.health.v1.Health/Check", data={"service": service}, **where)
    return str(json.loads(done.stdout)["status"]) if done.returncode == 0 else ""


@pytest.mark.parametrize("service", ["", "modelservice.v1.ModelService", "cluster", "live"])
def test_health_says_serving(grpcurl: Grpcurl, service: str) -> None:
    assert health(grpcurl, service) == "SERVING"


def test_health_says_not_serving_until_the_cluster_was_read(
    lab: Lab, grpcurl: Grpcurl, replicas: Replicas
) -> None:
    away = write_kubeconfig(
        replicas.folder / "away.kubeconfig",
        server="https://127.0.0.1:9",
        ca=lab.ca,
        token=lab.tokens["alice"],
    )
    server = replicas.make(kubeconfig=away)
    server.launch()
    wait_until(lambda: server.is_serving("live"), "it listens")
    told = {name: health(grpcurl, name, address=server.address) for name in ("", "cluster", "live")}
    assert told == {"": "NOT_SERVING", "cluster": "NOT_SERVING", "live": "SERVING"}
    data = {"namespace": "default"}
    refused = grpcurl("modelservice.v1.ModelService/List", data=data, address=server.address)
    assert refused.returncode == 78
    assert "VIEW_NOT_READY" in refused.stderr
    server.close()


@pytest.mark.parametrize(
    "spec",
    [
        container(SKLEARN_IMAGE),
        {"model": {"format": {"name": "sklearn"}, "storage_uri": MODEL}},
    ],
    ids=["container", "model"],
)
def test_0_when_it_is_ready(grpcurl: Grpcurl, namespace: str, spec: dict[str, Any]) -> None:
    rollout_id = rollout(grpcurl, namespace, "iris", spec)
    done = grpcurl(WATCH, data=until_ready(namespace, "iris", rollout_id))
    assert done.returncode == 0, done.stderr
    assert "STATE_READY" in done.stdout


def test_73_when_it_fails_with_the_cause(grpcurl: Grpcurl, namespace: str) -> None:
    rollout_id = rollout(grpcurl, namespace, "iris", container("lab/missing:1"))
    done = grpcurl(WATCH, data=until_ready(namespace, "iris", rollout_id))
    assert done.returncode == 73
    assert "Code: FailedPrecondition" in done.stderr
    for told in ('"reason": "ROLLOUT_FAILED"', '"reason": "REASON_IMAGE_PULL"', "lab/missing:1"):
        assert told in done.stderr


def test_the_details_of_an_error_come_as_json_on_request(grpcurl: Grpcurl, namespace: str) -> None:
    rollout_id = rollout(grpcurl, namespace, "iris", container("lab/missing:1"))
    done = grpcurl("-format-error", WATCH, data=until_ready(namespace, "iris", rollout_id))
    assert done.returncode == 73
    status = json.loads(done.stderr)
    assert [d["reason"] for d in status["details"]] == ["ROLLOUT_FAILED", "REASON_IMAGE_PULL"]


def test_73_when_it_is_stopped(grpcurl: Grpcurl, namespace: str) -> None:
    data = {
        "namespace": namespace,
        "name": "iris",
        "spec": container(SKLEARN_IMAGE),
        "annotations": {STOP: "true"},
    }
    rollout_id = json.loads(grpcurl(DEPLOY, data=data).stdout)["rollout_id"]
    done = grpcurl(WATCH, data=until_ready(namespace, "iris", rollout_id))
    assert done.returncode == 73
    assert '"reason": "SERVICE_STOPPED"' in done.stderr


def test_74_when_a_newer_rollout_replaces_it(
    lab: Lab, server: Server, grpcurl: Grpcurl, namespace: str
) -> None:
    rollout_id = rollout(grpcurl, namespace, "iris", container("lab/slow:60s", V="1"))
    process = waiting(lab, server, namespace, "iris", rollout_id)
    rollout(grpcurl, namespace, "iris", container("lab/slow:60s", V="2"))
    code, complaint = ended(process)
    assert code == 74
    assert '"reason": "ROLLOUT_SUPERSEDED"' in complaint


def test_69_when_the_service_is_deleted(
    lab: Lab, server: Server, grpcurl: Grpcurl, namespace: str
) -> None:
    rollout_id = rollout(grpcurl, namespace, "iris", container("lab/slow:60s"))
    process = waiting(lab, server, namespace, "iris", rollout_id)
    key = {"namespace": namespace, "name": "iris"}
    assert grpcurl("modelservice.v1.ModelService/Delete", data=key).returncode == 0
    code, complaint = ended(process)
    assert code == 69
    assert '"reason": "ROLLOUT_GONE"' in complaint


def test_68_at_the_deadline_after_the_last_state(
    lab: Lab, server: Server, grpcurl: Grpcurl, namespace: str
) -> None:
    rollout_id = rollout(grpcurl, namespace, "iris", container("lab/slow:60s"))
    data = until_ready(namespace, "iris", rollout_id)
    asked = command(lab, server.address, WATCH, data=data, seconds=5)
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 68
    assert "TYPE_SNAPSHOT" in done.stdout


def test_78_when_the_server_goes_down_and_the_same_wait_again_succeeds(
    lab: Lab, grpcurl: Grpcurl, replica: StartReplica, namespace: str
) -> None:
    server = replica()
    rollout_id = rollout(grpcurl, namespace, "iris", container("lab/slow:8s"))
    process = waiting(lab, server, namespace, "iris", rollout_id)
    assert server.stop(STOP_SECONDS) == 0
    code, complaint = ended(process)
    assert code == 78
    assert '"reason": "SERVER_STOPPING"' in complaint
    again = grpcurl(WATCH, data=until_ready(namespace, "iris", rollout_id))
    assert again.returncode == 0


def test_1_for_what_is_not_json_and_for_nobody_there(grpcurl: Grpcurl) -> None:
    assert grpcurl(DEPLOY, data='{"namespace": ').returncode == 1
    assert grpcurl("-connect-timeout", "1", "list", address="127.0.0.1:9").returncode == 1
