"""Write every gRPC call that a test makes as JSON: `TRANSCRIPTS=FOLDER pytest ...`.

Each test has a file there, with a line for each call in the order in which the calls began:
method, request, responses, status. `python -m tests.transcripts` compares two such folders.
Calls by grpc.aio and by other programs (grpcurl) are not written. The clusters' conformance suite
calls no server: its calls of the port are written as the wire would show them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from server.api.errors import status_of
from server.api.services import service_message
from server.api.specs import spec_message
from server.domain.errors import ServiceError
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.ports import ServiceSink

VARIABLE = "TRANSCRIPTS"
_LARGEST_BYTES = 256 * 2**10
_LONGEST_TEXT, _LONGEST_LIST = 2_000, 50


class Call:
    """One call of a test, from its beginning."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.requests: list[Any] = []
        self.responses: list[Any] = []
        self.status: dict[str, Any] = {"code": "OPEN"}

    def end(self, error: Any) -> None:
        """Take the status from a grpc.RpcError or a finished call."""
        trailing = dict(error.trailing_metadata() or ())
        self.status = {"code": error.code().name, "message": error.details() or ""}
        if details := trailing.get("grpc-status-details-bin"):
            self.status["details"] = as_json(Status.FromString(details))["details"]
        if pushback := trailing.get("grpc-retry-pushback-ms"):
            self.status["pushback"] = pushback


_calls: list[Call] = []
_failed: list[str] = []
_real_insecure_channel = grpc.insecure_channel


def as_json(message: Message) -> Any:
    """The message as JSON, long texts and lists cut; of a large message only its type."""
    if message.ByteSize() > _LARGEST_BYTES:
        return {"large": message.DESCRIPTOR.full_name}
    try:
        return _cut(MessageToDict(message, preserving_proto_field_name=True))
    except SerializeToJsonError:  # a time or a duration out of range
        return _cut({"text": str(message)})


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(inner) for key, inner in value.items()}
    if isinstance(value, list):
        more = [{"more": len(value) - _LONGEST_LIST}] if len(value) > _LONGEST_LIST else []
        return [_cut(inner) for inner in value[:_LONGEST_LIST]] + more
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_LONGEST_TEXT]}... {len(value)} characters"
    return value


def _decoded(method: str, raw: bytes, *, request: bool) -> Any:
    """What these bytes are as the method's message."""
    _, service, name = method.split("/")
    try:
        found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        kind = found.input_type if request else found.output_type
        return as_json(message_factory.GetMessageClass(kind).FromString(raw))
    except (KeyError, DecodeError):
        return {"undecodable": hashlib.sha1(raw).hexdigest()}


class _Method:
    """A method of a channel, its calls written. `make` is the channel's own unary_unary or so."""

    def __init__(
        self, make: Callable[..., Any], streamed: bool, method: str, arguments: Any, named: Any
    ) -> None:
        self._make, self._streamed, self._method = make, streamed, method
        self._serialize, self._deserialize = (*arguments, None, None)[:2]
        self._serialize = named.pop("request_serializer", self._serialize)
        self._deserialize = named.pop("response_deserializer", self._deserialize)
        self._named = named

    def _begin(self) -> tuple[Call, Any]:
        call = Call(self._method)
        _calls.append(call)

        def serialize(message: Any) -> bytes:
            raw: bytes = self._serialize(message) if self._serialize else message
            call.requests.append(_decoded(self._method, raw, request=True))
            return raw

        def deserialize(raw: bytes) -> Any:
            call.responses.append(_decoded(self._method, raw, request=False))
            return self._deserialize(raw) if self._deserialize else raw

        return call, self._make(self._method, serialize, deserialize, **self._named)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        call, method = self._begin()
        if self._streamed:
            responses = method(*arguments, **named)
            responses.add_done_callback(call.end)
            return responses
        try:
            response, finished = method.with_call(*arguments, **named)
        except grpc.RpcError as error:
            call.end(error)
            raise
        call.end(finished)
        return response

    def future(self, *arguments: Any, **named: Any) -> Any:
        call, method = self._begin()
        future = method.future(*arguments, **named)
        future.add_done_callback(call.end)
        return future


def _insecure_channel(*arguments: Any, **named: Any) -> grpc.Channel:
    channel = _real_insecure_channel(*arguments, **named)
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel, kind, _recorded(getattr(channel, kind), kind.endswith("stream")))
    return channel


def _recorded(make: Callable[..., Any], streamed: bool) -> Callable[..., _Method]:
    return lambda method, *args, **named: _Method(make, streamed, method, args, named)


def record_port(cluster: Any) -> None:
    """Write calls of a cluster's port: services and errors as the wire shows them."""
    if not os.environ.get(VARIABLE):
        return
    for name in ("apply", "delete", "read"):
        setattr(cluster, name, _recorded_port(name, getattr(cluster, name)))
    follow = cluster.follow

    async def recorded_follow(sink: ServiceSink) -> None:
        call = Call("port/follow")
        _calls.append(call)
        await follow(_RecordedSink(sink, call.responses))

    cluster.follow = recorded_follow


@dataclass
class _RecordedSink:
    """A sink that writes down what it hands on."""

    sink: ServiceSink
    seen: list[Any]

    def put(self, service: InferenceService) -> None:
        self.seen.append(_shown(service))
        self.sink.put(service)

    def remove(self, key: ServiceKey) -> None:
        self.seen.append(_shown(key))
        self.sink.remove(key)

    def mark_synced(self) -> None:
        self.seen.append("synced")
        self.sink.mark_synced()


def _recorded_port(
    name: str, method: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    async def recorded(request: Any, *more: Any) -> Any:
        call = Call(f"port/{name}")
        _calls.append(call)
        call.requests.append(_shown(request))
        try:
            result = await method(request, *more)
        except ServiceError as error:
            status = as_json(status_of(error))
            call.status = {**status, "code": str(status["code"])}
            raise
        call.status = {"code": "OK"}
        call.responses.append(_shown(result))
        return result

    return recorded


def _shown(thing: Any) -> Any:
    """A command, an outcome or a service of the port: its values that are
    set, specs and services as messages."""
    if isinstance(thing, InferenceService):
        return as_json(service_message(thing))
    if isinstance(thing, InferenceServiceSpec):
        return as_json(spec_message(thing))
    if hasattr(thing, "__dataclass_fields__"):
        values = (getattr(thing, name) for name in thing.__dataclass_fields__)
        return [_shown(value) for value in values if value and not isinstance(value, timedelta)]
    return str(thing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Write the calls of each test once it is over, teardown included."""
    _calls.clear()
    _failed.clear()
    result = yield
    if _calls:
        _write(Path(os.environ[VARIABLE]), item)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember a test that did not see all that it wants to."""
    if report.failed:
        _failed.append(report.nodeid)


def _write(folder: Path, item: pytest.Item) -> None:
    drawn = hasattr(getattr(item, "obj", None), "hypothesis")
    head = {"test": item.nodeid, "drawn": drawn, "failed": bool(_failed)}
    lines = [head, *(vars(call) for call in list(_calls))]
    name = re.sub(r"\W+", "_", item.nodeid)[-100:]
    key = hashlib.sha1(item.nodeid.encode()).hexdigest()[:8]
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (folder / f"{name}-{key}.jsonl").write_text(text)


def pytest_configure(config: pytest.Config) -> None:
    """Have every channel of this process recorded."""
    grpc.insecure_channel = _insecure_channel
