"""gRPC server reflection, v1 and v1alpha, for callers that have no protos."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from grpc_reflection.v1alpha import reflection_pb2 as pb

_V1ALPHA = "grpc.reflection.v1alpha"
# Its messages are those of v1alpha under another package; grpcio-reflection has v1alpha only.
_V1 = "grpc.reflection.v1"
REFLECTION_SERVICES = (f"{_V1}.ServerReflection", f"{_V1ALPHA}.ServerReflection")
# Symbols and file names are shorter. The response repeats the request.
LARGEST_REQUEST_BYTES = 2048

_Response = bytes


class Reflection:
    """Serves reflection from an index of every symbol in `files`, in the files they import and in
    reflection's own.

    grpcio-reflection's servicer does not find methods, and collects and serialises the files anew
    for each request. Here every response is serialised once, at the start.
    """

    def __init__(self, services: Iterable[str], files: Iterable[FileDescriptor]) -> None:
        index = _Index([*_with_imports([*files, pb.DESCRIPTOR]), _v1_file()])
        listed = pb.ListServiceResponse(
            service=[pb.ServiceResponse(name=name) for name in sorted(services)]
        )
        self._services = _serialised(list_services_response=listed)
        self._files = index.files
        self._symbols = index.symbols
        self._extensions = index.extensions
        self._extension_numbers = index.extension_numbers

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service of each version."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._serve, pb.ServerReflectionRequest.FromString, None
        )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
                for name in REFLECTION_SERVICES
            ]
        )

    async def _serve(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _: Any
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self.response(request)

    def response(self, request: pb.ServerReflectionRequest) -> bytes:
        """Return the serialised ServerReflectionResponse. Errors are an error_response in it: the
        stream goes on."""
        if request.ByteSize() > LARGEST_REQUEST_BYTES:
            return _error(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the request must have at most {LARGEST_REQUEST_BYTES} bytes,"
                f" got {request.ByteSize()}",
            )
        # Concatenated messages are one message.
        return _serialised(original_request=request) + self._found(request)

    def _found(self, request: pb.ServerReflectionRequest) -> _Response:
        match request.WhichOneof("message_request"):
            case "list_services":
                return self._services
            case "file_by_filename":
                name = request.file_by_filename
                return self._files.get(name) or _not_found(f"file {name}")
            case "file_containing_symbol":
                name = request.file_containing_symbol
                return self._symbols.get(name) or _not_found(f"symbol {name}")
            case "file_containing_extension":
                extended = request.file_containing_extension
                key = (extended.containing_type, extended.extension_number)
                return self._extensions.get(key) or _not_found(f"extension {key[1]} of {key[0]}")
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                return self._extension_numbers.get(name) or _not_found(f"message {name}")
        return _error(
            grpc.StatusCode.INVALID_ARGUMENT,
            "the request must set one of the fields of message_request",
        )


class _Index:
    """The responses: each file by its name, and by each symbol and extension that it declares."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        protos = {file.name: file for file in files}
        self.files: dict[str, _Response] = {}
        self.symbols: dict[str, _Response] = {}
        self.extensions: dict[tuple[str, int], _Response] = {}
        numbers: dict[str, list[int]] = {}
        for name, file in protos.items():
            response = self.files[name] = _with_dependencies(file, protos)
            for symbol in _symbols(file):
                self.symbols[symbol.name] = response
                if symbol.is_message:
                    numbers.setdefault(symbol.name, [])
            for extended, number in _extensions(file):
                self.extensions[extended, number] = response
                numbers.setdefault(extended, []).append(number)
        self.extension_numbers: Mapping[str, _Response] = {
            name: _serialised(
                all_extension_numbers_response=pb.ExtensionNumberResponse(
                    base_type_name=name, extension_number=sorted(found)
                )
            )
            for name, found in numbers.items()
        }


class _Symbol(NamedTuple):
    """A full name that a file declares."""

    name: str
    is_message: bool = False


def _symbols(file: FileDescriptorProto) -> Iterator[_Symbol]:
    scope = f"{file.package}." if file.package else ""
    for service in file.service:
        yield _Symbol(f"{scope}{service.name}")
        for method in service.method:
            yield _Symbol(f"{scope}{service.name}.{method.name}")
    yield from _declared(scope, file.enum_type, file.extension)
    for message in file.message_type:
        yield from _symbols_of_message(scope, message)


def _symbols_of_message(scope: str, message: DescriptorProto) -> Iterator[_Symbol]:
    name = f"{scope}{message.name}"
    yield _Symbol(name, is_message=True)
    for field in message.field:
        yield _Symbol(f"{name}.{field.name}")
    for oneof in message.oneof_decl:
        yield _Symbol(f"{name}.{oneof.name}")
    yield from _declared(f"{name}.", message.enum_type, message.extension)
    for nested in message.nested_type:
        yield from _symbols_of_message(f"{name}.", nested)


def _declared(
    scope: str, enums: Iterable[EnumDescriptorProto], extensions: Iterable[FieldDescriptorProto]
) -> Iterator[_Symbol]:
    for enum in enums:
        yield _Symbol(f"{scope}{enum.name}")
        # Protobuf names an enum's values beside the enum; grpcurl prints them as inside it.
        for value in enum.value:
            yield _Symbol(f"{scope}{value.name}")
            yield _Symbol(f"{scope}{enum.name}.{value.name}")
    for extension in extensions:
        yield _Symbol(f"{scope}{extension.name}")


def _extensions(declaring: FileDescriptorProto | DescriptorProto) -> Iterator[tuple[str, int]]:
    for extension in declaring.extension:
        yield extension.extendee.removeprefix("."), extension.number
    nested = (
        declaring.message_type
        if isinstance(declaring, FileDescriptorProto)
        else declaring.nested_type
    )
    for message in nested:
        yield from _extensions(message)


def _with_imports(files: Iterable[FileDescriptor]) -> list[FileDescriptorProto]:
    found: dict[str, FileDescriptorProto] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file.name not in found:
            # CopyToProto leaves out JSON names, so that grpcurl prints the fields' own names.
            found[file.name] = FileDescriptorProto()
            file.CopyToProto(found[file.name])
            waiting += file.dependencies
    return list(found.values())


def _with_dependencies(
    file: FileDescriptorProto, protos: Mapping[str, FileDescriptorProto]
) -> _Response:
    """Return a file, followed by its imports."""
    names = [file.name]
    for name in names:
        names += [imported for imported in protos[name].dependency if imported not in names]
    return _serialised(
        file_descriptor_response=pb.FileDescriptorResponse(
            file_descriptor_proto=[protos[name].SerializeToString() for name in names]
        )
    )


def _v1_file() -> FileDescriptorProto:
    v1alpha = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(v1alpha)
    v1alpha.ClearField("options")
    renamed = str(v1alpha).replace(_V1ALPHA, _V1)
    v1: FileDescriptorProto = text_format.Parse(renamed, FileDescriptorProto())
    v1.name = "grpc/reflection/v1/reflection.proto"
    return v1


def _not_found(what: str) -> _Response:
    return _error(grpc.StatusCode.NOT_FOUND, f"there is no {what}")


def _error(code: grpc.StatusCode, message: str) -> _Response:
    number: int = code.value[0]
    return _serialised(error_response=pb.ErrorResponse(error_code=number, error_message=message))


def _serialised(**field: Any) -> _Response:
    response: bytes = pb.ServerReflectionResponse(**field).SerializeToString()
    return response
