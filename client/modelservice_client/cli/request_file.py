"""Requests and resources from files: the JSON form of their message, as YAML or JSON."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import DeployRequest
from yaml.constructor import SafeConstructor

MOST_BYTES = 1 << 20  # of a request, by the server's own limit
MOST_NODES = 10_000
_MOST_PROBLEMS = 20
_MANIFEST = (
    "is a Kubernetes manifest and must be a DeployRequest: see docs/modelctl.md, A request from a"
    " file"
)


Resource = TypeVar("Resource", bound=Message)


class FileError(Exception):
    """A file is not the JSON form of its message; each problem names the line and the field."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnreadableFileError(Exception):
    """A file cannot be read at all."""


@dataclass
class RequestFile:
    """A request and where its fields stand."""

    file: str
    request: DeployRequest = field(default_factory=DeployRequest)
    # The fields of an InferenceService that no request has.
    ignored: list[str] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    def place_of(self, path: str) -> str:
        """Return `file:line` of a field, or of the nearest one around it that the file has."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.file}:{self.lines.get(path, 1)}"


def read_file(name: str) -> RequestFile:
    """Read the request in a file, or for `-` in standard input.

    An InferenceService is a request too: the fields that only the server sets are ignored, and its
    etag makes the deploy fail if the service has changed since.
    """
    return parse(*_read(name))


def read_resource(name: str, resource: type[Resource]) -> Resource:
    """Read a resource of the registry in a file, or for `-` in standard input."""
    text, file = _read(name)
    with _bounded(file):
        return _Reader(RequestFile(file)).message(_compose(text, file), resource)


def _read(name: str) -> tuple[str, str]:
    """Return the text of a file, and its name in errors."""
    try:
        if name == "-":
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as opened:
                content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableFileError(f"{name}: {error.strerror or error}") from error
    shown = "standard input" if name == "-" else name
    if len(content) > MOST_BYTES:
        raise FileError(f"{shown}: must have at most {MOST_BYTES} bytes")
    try:
        return content.decode("utf-8-sig"), shown
    except UnicodeDecodeError as error:
        raise FileError(f"{shown}: must be UTF-8, byte {error.start} is not") from error


def parse(text: str, file: str) -> RequestFile:
    """Read the request in a text; `file` is its name in errors."""
    found = RequestFile(file)
    with _bounded(file):
        found.request = _Reader(found).request(_compose(text, file))
    return found


@contextmanager
def _bounded(file: str) -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise FileError(f"{file}: is nested too deeply") from error


def _compose(text: str, file: str) -> yaml.Node:
    if text.lstrip().startswith("{"):
        # JSON has tabs only between its tokens, where YAML has none.
        text = text.replace("\t", " ")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = error.problem or error.context or "is no YAML"
        if problem == "but found another document":
            problem = "must have one document, got another: deploy one service for each file"
        raise FileError(f"{file}{line}: {problem}") from error
    except yaml.YAMLError as error:
        raise FileError(f"{file}: {' '.join(str(error).split())}") from error
    if root is None:
        raise FileError(f"{file}: is empty")
    return root


class _Reader:
    """Turns YAML into what json_format takes, and checks each field where its line is known.

    What is wrong is collected, so that one run shows all of it.
    """

    def __init__(self, found: RequestFile) -> None:
        self._found = found
        self._scalars = SafeConstructor()
        self._nodes = 0
        self._problems: list[str] = []

    def request(self, root: yaml.Node) -> DeployRequest:
        if isinstance(root, yaml.MappingNode):
            if {"apiVersion", "kind"} <= {str(key.value) for key, _ in root.value}:
                self._wrong(root, "", _MANIFEST)
                raise FileError(*self._problems)
            for pair in list(root.value):
                name = str(pair[0].value)
                output_only = _field_named(InferenceService.DESCRIPTOR, name)
                if output_only and not _field_named(DeployRequest.DESCRIPTOR, name):
                    self._found.ignored.append(output_only.name)
                    root.value.remove(pair)
        return self.message(root, DeployRequest)

    def message(self, root: yaml.Node, kind: type[Resource]) -> Resource:
        """Return the message that is the root. Raises FileError with everything that is wrong."""
        message = kind()
        descriptor: Any = kind.DESCRIPTOR
        content = self._message(root, descriptor, "")
        if self._problems:
            more = len(self._problems) - _MOST_PROBLEMS
            others = [f"{self._found.file}: and {more} more"] if more > 0 else []
            raise FileError(*self._problems[:_MOST_PROBLEMS], *others)
        try:
            json_format.ParseDict(content, message)
        except json_format.ParseError as error:  # none that is known: each field was checked
            raise FileError(f"{self._found.file}: {error}") from error
        return message

    def _message(self, node: yaml.Node, message: Descriptor, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        given: set[str] = set()
        chosen: dict[str, str] = {}
        for key, name, value in self._entries(node, path):
            known = _field_named(message, name)
            inner = _join(path, known.name if known else name)
            if known is None:
                self._wrong(key, inner, _unknown_field(message, name))
                continue
            if known.name in given:
                self._wrong(key, inner, "must be given once")
                continue
            self._found.lines[inner] = key.start_mark.line + 1
            if _is_null(value):
                continue
            given.add(known.name)
            oneof = known.containing_oneof
            other = chosen.setdefault(oneof.name, known.name) if oneof else known.name
            if other != known.name:
                problem = f"must not be given beside {_join(path, other)}: choose one of them"
                self._wrong(key, inner, problem)
            found[known.name] = self._field(value, known, inner)
        return found

    def _field(self, node: yaml.Node, known: FieldDescriptor, path: str) -> Any:
        if known.message_type is not None and known.message_type.GetOptions().map_entry:
            value_field = known.message_type.fields_by_name["value"]
            found: dict[str, Any] = {}
            for key, name, value in self._entries(node, path):
                inner = f"{path}[{json.dumps(name, ensure_ascii=False)}]"
                if name in found:
                    self._wrong(key, inner, "must be given once")
                self._found.lines[inner] = key.start_mark.line + 1
                found[name] = self._value(value, value_field, inner, secret=True)
            return found
        if known.is_repeated:
            if not isinstance(node, yaml.SequenceNode):
                self._wrong(node, path, f"must be a list, got {_kind(node)}")
                return None
            items = []
            for i, item in enumerate(node.value):
                self._found.lines[f"{path}[{i}]"] = item.start_mark.line + 1
                items.append(self._value(item, known, f"{path}[{i}]"))
            return items
        return self._value(node, known, path)

    def _value(
        self, node: yaml.Node, known: FieldDescriptor, path: str, secret: bool = False
    ) -> Any:
        """Read one value, of a field, a list or a map. A `secret` one is not shown in errors."""
        message = known.message_type
        if message is not None and message.full_name == "google.protobuf.Struct":
            return self._object(node, path)
        if message is not None and not message.full_name.startswith("google.protobuf."):
            return self._message(node, message, path)
        if not isinstance(node, yaml.ScalarNode) or _is_null(node):
            self._wrong(node, path, f"must be {_expected(known)}, got {_kind(node)}")
            return None
        value = self._scalar(node)
        single = known.name if not known.is_repeated else None
        try:
            assert known.containing_type is not None
            holder = GetMessageClass(known.containing_type)()
            json_format.ParseDict({known.name: value if single else [value]}, holder)
        except json_format.ParseError:
            given = _kind(node) if secret else f"{node.value[:64]} ({_kind(node)})"
            quoted = ": put it in quotes" if _expected(known) == "a string" else ""
            self._wrong(node, path, f"must be {_expected(known)}, got {given}{quoted}")
        return value

    def _object(self, node: yaml.Node, path: str) -> dict[str, Any]:
        """Read a Struct: any JSON object."""
        return {
            name: self._any(value, _join(path, name))
            for _, name, value in self._entries(node, path)
        }

    def _any(self, node: yaml.Node, path: str) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._object(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._count(len(node.value), node, path)
            return [self._any(item, path) for item in node.value]
        return (
            self._scalar(node) if isinstance(node, yaml.ScalarNode) and not _is_null(node) else None
        )

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag in _KINDS:
            try:
                value = self._scalars.construct_object(node)
            except ValueError:  # an int of YAML 1.1 such as 0b
                return node.value
            if not isinstance(value, str):
                return value
        # JSON writes characters beyond U+FFFF as two escapes, which YAML leaves apart.
        return node.value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _entries(self, node: yaml.Node, path: str) -> Iterator[tuple[yaml.Node, str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, path, f"must be an object, got {_kind(node)}")
            return
        self._count(len(node.value), node, path)
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key, key.value, value
            else:
                self._wrong(key, path, "must have texts as keys")

    def _count(self, more: int, node: yaml.Node, path: str) -> None:
        self._nodes += more
        if self._nodes > MOST_NODES:
            self._problems.clear()
            self._wrong(node, path, f"must have at most {MOST_NODES} fields, aliases counted")
            raise FileError(*self._problems)

    def _wrong(self, node: yaml.Node, path: str, problem: str) -> None:
        place = f"{self._found.file}:{node.start_mark.line + 1}"
        self._problems.append(f"{place}: {path}: {problem}" if path else f"{place}: {problem}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _field_named(message: Descriptor, name: str) -> FieldDescriptor | None:
    """Find a field by its name, or by its name in lowerCamelCase."""
    found: FieldDescriptor | None = message.fields_by_name.get(
        name
    ) or message.fields_by_camelcase_name.get(name)
    return found


def _unknown_field(message: Descriptor, name: str) -> str:
    names = [known.name for known in message.fields]
    close = difflib.get_close_matches(name, [*names, *message.fields_by_camelcase_name], n=1)
    meant = f"; did you mean {close[0]}?" if close else "."
    return f"{message.name} has no such field{meant} Its fields: {', '.join(names)}"


_KINDS = {
    "tag:yaml.org,2002:str": "string",
    "tag:yaml.org,2002:int": "number",
    "tag:yaml.org,2002:float": "number",
    "tag:yaml.org,2002:bool": "boolean",
}


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "an object"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "null" if _is_null(node) else f"a {_KINDS.get(node.tag, 'text')}"


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _expected(known: FieldDescriptor) -> str:
    if known.message_type is not None:
        return {
            "Duration": 'a duration in seconds such as "300s"',
            "Timestamp": 'a time such as "2030-01-31T12:00:00Z"',
        }.get(known.message_type.name, f"a {known.message_type.name}")
    if known.enum_type is not None:
        # The first value of each enum is its UNSPECIFIED, which a request does not name.
        return f"one of {', '.join(value.name for value in known.enum_type.values[1:])}"
    if known.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "a string"
    if known.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false"
    bits = 64 if known.cpp_type in _LONG else 32
    return f"a whole number of {bits} bits"


_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
