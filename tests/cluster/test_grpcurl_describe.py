"""Everything in the protos can be looked up with grpcurl alone, which takes reflection's v1."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from modelservice.v1 import (
    errors_pb2,
    inference_service_pb2,
    model_service_pb2,
    registry_pb2,
    registry_service_pb2,
    rollout_service_pb2,
)

from tests.serving import Served, serving, settings

FILES = [
    module.DESCRIPTOR
    for module in (
        errors_pb2,
        inference_service_pb2,
        model_service_pb2,
        registry_pb2,
        registry_service_pb2,
        rollout_service_pb2,
    )
]
SERVICES = [service for file in FILES for service in file.services_by_name.values()]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(settings()) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture
def described(built_grpcurl: Path, served: Served):
    """What grpcurl says of each symbol, on its first line; its complaint where it fails."""

    def describe(symbol: str) -> str:
        command = [
            built_grpcurl,
            "-plaintext",
            "-max-time",
            "30",
            served.address,
            "describe",
            symbol,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return (done.stdout if done.returncode == 0 else done.stderr).splitlines()[0]

    def describe_all(symbols: list[str]) -> dict[str, str]:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(symbols, pool.map(describe, symbols), strict=True))

    return describe_all


def messages_in(message: Descriptor) -> Iterator[Descriptor]:
    yield message
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from messages_in(nested)


def test_every_service_and_method_is_described(described) -> None:
    methods = [method.full_name for service in SERVICES for method in service.methods]
    services = [service.full_name for service in SERVICES]
    kinds = dict.fromkeys(services, "a service") | dict.fromkeys(methods, "a method")
    assert described(list(kinds)) == {name: f"{name} is {kind}:" for name, kind in kinds.items()}


def test_every_message_is_described(described) -> None:
    names = [
        message.full_name
        for file in FILES
        for top in file.message_types_by_name.values()
        for message in messages_in(top)
    ]
    assert len(names) > 60
    assert described(names) == {name: f"{name} is a message:" for name in names}


def test_every_other_kind_of_symbol_is_described(described) -> None:
    kinds = {
        "modelservice.v1.ErrorReason": "an enum",
        "modelservice.v1.ErrorReason.ERROR_REASON_INTERNAL": "an enum value",
        "modelservice.v1.InferenceServiceStatus.State": "an enum",
        "modelservice.v1.InferenceServiceStatus.State.STATE_READY": "an enum value",
        "modelservice.v1.Failure.log_lines": "a field",
        "modelservice.v1.InferenceServiceSpec.predictor": "a one-of",
        "modelservice.v1.DeployRequest.LabelsEntry": "the entry type for a map field",
        "google.rpc.RetryInfo": "a message",
        "grpc.health.v1.Health.List": "a method",
        "grpc.reflection.v1.ServerReflection": "a service",
        "grpc.reflection.v1alpha.ServerReflection": "a service",
    }
    assert described(list(kinds)) == {name: f"{name} is {kind}:" for name, kind in kinds.items()}


def test_an_enum_value_is_found_by_the_name_that_protobuf_gives_it(described) -> None:
    name = "modelservice.v1.InferenceServiceStatus.STATE_READY"
    described_as = "modelservice.v1.InferenceServiceStatus.State.STATE_READY is an enum value:"
    assert described([name]) == {name: described_as}


def test_without_a_symbol_every_listed_service_is_described(
    built_grpcurl: Path, served: Served
) -> None:
    command = [built_grpcurl, "-plaintext", "-max-time", "30", served.address]
    listed = subprocess.run([*command, "list"], capture_output=True, text=True, check=True)
    done = subprocess.run([*command, "describe"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for service in listed.stdout.split():
        assert f"{service} is a service:" in done.stdout


def test_fields_are_printed_by_their_own_names(built_grpcurl: Path, served: Served) -> None:
    request = {"name": "iris", "spec": {"container": {"image": "example.org/model:1"}}}
    method = "modelservice.v1.ModelService/Deploy"
    command = [built_grpcurl, "-plaintext", "-d", json.dumps(request), served.address, method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rollout_id"]
