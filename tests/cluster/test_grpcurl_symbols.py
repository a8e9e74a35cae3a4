"""grpcurl finds every symbol of the API by reflection; other tools are in tests/languages."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelservice.v1 import model_service_pb2, registry_service_pb2, rollout_service_pb2

from tests.patience import PATIENCE_SECONDS
from tests.serving import Served, serving, settings

METHODS = [
    method
    for module in (model_service_pb2, registry_service_pb2, rollout_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(settings()) as served:
        yield served


def describe(grpcurl: Path, served: Served, symbol: str) -> str:
    command = [grpcurl, "-plaintext", "-max-time", "60", served.address, "describe", symbol]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_describes_every_method_and_its_messages(built_grpcurl: Path, served: Served) -> None:
    assert len(METHODS) >= 22
    for method in METHODS:
        printed = describe(built_grpcurl, served, method.full_name)
        assert f"{method.full_name} is a method:" in printed
        stream = "stream " if method.server_streaming else ""
        assert (
            f"rpc {method.name} ( .{method.input_type.full_name} )"
            f" returns ( {stream}.{method.output_type.full_name} );"
        ) in printed


@pytest.mark.parametrize(
    ("symbol", "kind"),
    [
        ("modelservice.v1.ModelService", "service"),
        ("modelservice.v1.InferenceService", "message"),
        ("modelservice.v1.InferenceServiceStatus.State", "enum"),
        ("modelservice.v1.ERROR_REASON_FIELD_INVALID", "enum value"),
        ("modelservice.v1.DeployRequest.name", "field"),
        ("google.rpc.RetryInfo", "message"),
    ],
)
def test_it_describes_every_kind_of_symbol(
    symbol: str, kind: str, built_grpcurl: Path, served: Served
) -> None:
    first, *_ = describe(built_grpcurl, served, symbol).splitlines()
    assert first.split()[0].endswith(symbol.rpartition(".")[2])
    assert first.endswith(f"{kind}:")
