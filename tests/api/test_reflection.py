"""Server reflection, over the socket."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from modelservice.v1 import (
    errors_pb2,
    inference_service_pb2,
    model_service_pb2,
    registry_pb2,
    registry_service_pb2,
    rollout_service_pb2,
)
from modelservice.v1.model_service_pb2 import GetRequest

from server.api.reflection import LARGEST_REQUEST_BYTES, Reflection

from .reflection_client import V1, V1ALPHA, VERSIONS, files_in, listed_services, reflected

FILES = [
    module.DESCRIPTOR
    for module in (
        errors_pb2,
        inference_service_pb2,
        model_service_pb2,
        registry_pb2,
        registry_service_pb2,
        rollout_service_pb2,
        health_pb2,
        error_details_pb2,
        status_pb2,
        reflection_pb2,
    )
]
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]


def symbols_of(file: FileDescriptor) -> set[str]:
    """The full name of everything that the file declares."""
    names = {service.full_name for service in file.services_by_name.values()}
    names |= {m.full_name for s in file.services_by_name.values() for m in s.methods}
    for enum in file.enum_types_by_name.values():
        names |= symbols_of_enum(enum, file.package)
    for message in file.message_types_by_name.values():
        names |= symbols_of_message(message)
    return names


def symbols_of_message(message: Descriptor) -> set[str]:
    parts = (*message.fields, *message.oneofs)
    names = {message.full_name} | {part.full_name for part in parts}
    for enum in message.enum_types:
        names |= symbols_of_enum(enum, message.full_name)
    for nested in message.nested_types:
        names |= symbols_of_message(nested)
    return names


def symbols_of_enum(enum: EnumDescriptor, scope: str) -> set[str]:
    return {enum.full_name} | {f"{scope}.{value.name}" for value in enum.values}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_services_are_listed(grpc_channel, version) -> None:
    assert listed_services(grpc_channel, version) == {
        "modelservice.v1.ModelService",
        "modelservice.v1.RegistryService",
        "modelservice.v1.RolloutService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_symbol_of_a_file_is_found_in_it(grpc_channel, file, version) -> None:
    symbols = sorted(symbols_of(file))
    requests = [ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
    answers = reflected(grpc_channel, *requests, version=version)
    found = {
        symbol: files_in(answer)[0].name if files_in(answer) else ""
        for symbol, answer in zip(symbols, answers, strict=True)
    }
    assert found == dict.fromkeys(symbols, file.name)
    assert [answer.original_request for answer in answers] == requests


def test_the_kinds_of_symbols_are_what_the_protos_call_them(grpc_channel) -> None:
    symbols = {
        "service": "modelservice.v1.ModelService",
        "method": "modelservice.v1.ModelService.Get",
        "message": "modelservice.v1.Failure",
        "field": "modelservice.v1.Failure.reason",
        "oneof": "modelservice.v1.InferenceServiceSpec.predictor",
        "nested enum": "modelservice.v1.InferenceServiceStatus.State",
        "its value": "modelservice.v1.InferenceServiceStatus.STATE_READY",
        "enum": "modelservice.v1.ErrorReason",
        "value": "modelservice.v1.ERROR_REASON_INTERNAL",
        "map entry": "modelservice.v1.DeployRequest.LabelsEntry",
        "v1 of reflection": "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
    }
    requests = [ServerReflectionRequest(file_containing_symbol=s) for s in symbols.values()]
    answers = reflected(grpc_channel, *requests)
    missing = [kind for kind, answer in zip(symbols, answers, strict=True) if not files_in(answer)]
    assert missing == []


def test_buf_curl_calls_and_lists_without_a_schema(grpc_addr) -> None:
    """It asks for v1, and takes what it finds for the whole schema."""
    buf = Path(sys.executable).with_name("buf")
    command = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    listed = subprocess.run(
        [*command, "--list-methods", f"http://{grpc_addr}"], capture_output=True, text=True
    )
    assert "modelservice.v1.ModelService/Get" in listed.stdout.split(), listed.stderr
    method = f"http://{grpc_addr}/modelservice.v1.ModelService/List"
    called = subprocess.run([*command, "-d", "{}", method], capture_output=True, text=True)
    assert called.returncode == 0, called.stderr
    assert "viewAge" in json.loads(called.stdout)


def test_an_answer_has_whatever_the_file_imports(grpc_channel) -> None:
    for service in listed_services(grpc_channel):
        request = ServerReflectionRequest(file_containing_symbol=service)
        (answer,) = reflected(grpc_channel, request)
        answered = DescriptorDatabase()
        for file in files_in(answer):
            answered.Add(file)
        pool = DescriptorPool(answered)
        assert pool.FindServiceByName(service).methods


def test_every_file_is_found_by_its_name(grpc_channel) -> None:
    names = [*(file.name for file in FILES), "google/protobuf/timestamp.proto"]
    requests = [ServerReflectionRequest(file_by_filename=name) for name in names]
    answers = reflected(grpc_channel, *requests)
    assert [files_in(answer)[0].name for answer in answers] == names


def test_fields_have_no_json_names_so_that_grpcurl_prints_their_own(grpc_channel) -> None:
    request = ServerReflectionRequest(file_containing_symbol="modelservice.v1.DeployResponse")
    (answer,) = reflected(grpc_channel, request)
    fields = [f for file in files_in(answer) for m in file.message_type for f in m.field]
    assert len(fields) > 50
    renamed = [field.name for field in fields if field.json_name not in ("", field.name)]
    assert renamed == []


def test_v1_is_v1alpha_under_another_package(grpc_channel) -> None:
    definitions = []
    for version in VERSIONS:
        symbol = f"{version}.ServerReflection"
        (answer,) = reflected(grpc_channel, ServerReflectionRequest(file_containing_symbol=symbol))
        (file,) = files_in(answer)
        file.ClearField("options")
        definitions.append(str(file).replace(version, "V").replace(version.replace(".", "/"), "V"))
    v1, v1alpha = definitions
    assert "V.ServerReflectionRequest" in v1
    assert v1.splitlines()[1:] == v1alpha.splitlines()[1:]


def test_what_is_not_there_is_not_found_and_the_stream_goes_on(grpc_channel) -> None:
    absent = [
        ServerReflectionRequest(file_containing_symbol="modelservice.v1.ModelService.Undeploy"),
        ServerReflectionRequest(file_containing_symbol="modelservice.v1"),
        ServerReflectionRequest(file_by_filename="no.proto"),
        ServerReflectionRequest(all_extension_numbers_of_type="modelservice.v1.No"),
        ServerReflectionRequest(
            file_containing_extension=ExtensionRequest(
                containing_type="modelservice.v1.Failure", extension_number=7
            )
        ),
    ]
    *answers, last = reflected(grpc_channel, *absent, ServerReflectionRequest(list_services=""))
    assert [answer.error_response.error_code for answer in answers] == [NOT_FOUND] * len(absent)
    assert "modelservice.v1.ModelService.Undeploy" in answers[0].error_response.error_message
    assert last.list_services_response.service


def test_a_message_without_extensions_has_none(grpc_channel) -> None:
    request = ServerReflectionRequest(all_extension_numbers_of_type="modelservice.v1.Failure")
    (answer,) = reflected(grpc_channel, request)
    numbers = answer.all_extension_numbers_response
    assert (numbers.base_type_name, numbers.extension_number) == ("modelservice.v1.Failure", [])


def test_extensions_are_found_by_name_by_number_and_by_what_they_extend() -> None:
    file = text_format.Parse(
        """
        name: "e.proto" package: "e" syntax: "proto2"
        message_type { name: "Base" extension_range { start: 100 end: 200 }
          extension { name: "inner" extendee: ".e.Base" number: 101 type: TYPE_INT32 label: LABEL_OPTIONAL } }
        extension { name: "outer" extendee: ".e.Base" number: 100 type: TYPE_INT32 label: LABEL_OPTIONAL }
        """,  # noqa: E501
        descriptor_pb2.FileDescriptorProto(),
    )
    pool = DescriptorPool()
    pool.Add(file)
    declared = descriptor_pb2.FileDescriptorProto()
    pool.FindFileByName("e.proto").CopyToProto(declared)
    reflection = Reflection([], [pool.FindFileByName("e.proto")])

    def answered(**request) -> ServerReflectionResponse:
        answer = reflection.response(ServerReflectionRequest(**request))
        return ServerReflectionResponse.FromString(answer)

    for symbol in ("e.outer", "e.Base.inner"):
        assert files_in(answered(file_containing_symbol=symbol)) == [declared]
    for number in (100, 101):
        asked = ExtensionRequest(containing_type="e.Base", extension_number=number)
        assert files_in(answered(file_containing_extension=asked)) == [declared]
    numbers = answered(all_extension_numbers_of_type="e.Base").all_extension_numbers_response
    assert numbers.extension_number == [100, 101]


def test_a_request_larger_than_any_symbol_is_refused_without_repeating_it(grpc_channel) -> None:
    request = ServerReflectionRequest(file_containing_symbol="x" * LARGEST_REQUEST_BYTES)
    (answer,) = reflected(grpc_channel, request)
    assert answer.error_response.error_code == INVALID_ARGUMENT
    assert answer.ByteSize() < 200


def test_a_request_for_nothing_is_refused(grpc_channel) -> None:
    (answer,) = reflected(grpc_channel, ServerReflectionRequest(host="h"))
    assert answer.error_response.error_code == INVALID_ARGUMENT


@pytest.mark.parametrize("version", [V1, V1ALPHA])
def test_calls_are_answered_beside_a_flood_of_reflection(
    grpc_channel, grpc_addr, stub, version
) -> None:
    request = ServerReflectionRequest(file_containing_symbol="modelservice.v1.RegistryService")

    def flood(_: int) -> int:
        with grpc.insecure_channel(grpc_addr) as channel:
            return len(reflected(channel, *[request] * 500, version=version))

    with ThreadPoolExecutor(4) as pool:
        floods = [pool.submit(flood, n) for n in range(4)]
        while not all(each.done() for each in floods):
            with pytest.raises(grpc.RpcError) as raised:
                stub.Get(GetRequest(name="absent"), timeout=5)
            assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert [each.result() for each in floods] == [500] * 4
