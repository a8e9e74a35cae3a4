"""ghz and grpc-health-probe, which find what they call by reflection and by name.

grpcurl is run in tests/cluster, buf curl in tests/api/test_reflection.py.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from modelservice.v1 import model_service_pb2, registry_service_pb2, rollout_service_pb2
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.api.requests import deploy
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served, serving, settings

pytestmark = pytest.mark.processes
SERVICES = [
    service.full_name
    for module in (model_service_pb2, registry_service_pb2, rollout_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("registry")
    with serving(settings(registry=f"sqlite:///{folder}/registry.db")) as served:
        served.wait_until_synced()
        yield served


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def test_ghz_calls_a_method_without_a_proto(tools: dict[str, Path], served: Served) -> None:
    with grpc.insecure_channel(served.address) as channel:
        ModelServiceStub(channel).Deploy(deploy("loaded"), timeout=PATIENCE_SECONDS)
    done = run(
        *(tools["ghz"], "--insecure", "--call", "modelservice.v1.ModelService/Get"),
        *("--data", json.dumps({"name": "loaded"}), "--total", "20", "--concurrency", "2"),
        *("--timeout", "60s", "--connect-timeout", "60s", "--format", "json", served.address),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statusCodeDistribution"] == {"OK": 20}


@pytest.mark.parametrize(
    "service",
    [
        "",
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ],
)
def test_grpc_health_probe_knows_the_service(
    service: str, tools: dict[str, Path], served: Served
) -> None:
    probe = [tools["grpc-health-probe"], f"-addr={served.address}", f"-service={service}"]
    done = run(*probe, "-connect-timeout=60s", "-rpc-timeout=60s")
    assert (done.returncode, done.stderr.strip()) == (0, "status: SERVING")


def test_grpc_health_probe_says_that_a_service_is_none(
    tools: dict[str, Path], served: Served
) -> None:
    probe = [tools["grpc-health-probe"], f"-addr={served.address}", "-service=modelservice.v1.No"]
    done = run(*probe, "-connect-timeout=60s", "-rpc-timeout=60s")
    assert done.returncode == 3
    assert "NotFound" in done.stderr
