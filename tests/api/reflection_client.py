"""A raw client of server reflection, of either version."""

from __future__ import annotations

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from tests.patience import PATIENCE_SECONDS

V1 = "grpc.reflection.v1"
V1ALPHA = "grpc.reflection.v1alpha"
VERSIONS = (V1, V1ALPHA)


def reflected(
    channel: grpc.Channel, *requests: ServerReflectionRequest, version: str = V1
) -> list[ServerReflectionResponse]:
    """The answers to requests on one stream. Both versions have the same messages."""
    method = channel.stream_stream(
        f"/{version}.ServerReflection/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )
    return list(method(iter(requests), timeout=PATIENCE_SECONDS))


def listed_services(channel: grpc.Channel, version: str = V1) -> set[str]:
    (answer,) = reflected(channel, ServerReflectionRequest(list_services="*"), version=version)
    return {service.name for service in answer.list_services_response.service}


def files_in(answer: ServerReflectionResponse) -> list[FileDescriptorProto]:
    """The files of an answer, in its order."""
    return [
        FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
