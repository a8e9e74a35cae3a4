"""No request keeps the server from its other callers, however much it carries."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import Toleration
from modelservice.v1.model_service_pb2 import DeployRequest, GetRequest, WatchStatusRequest

from server.api.call_log import CallLog
from server.api.limits import MOST_BYTES, MOST_ENTRIES
from tests.cpu_time import cpu_time
from tests.loop_steps import LoopSteps
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused

from .generated_requests import METHODS
from .requests import deploy

LARGEST = 2**20
# The longest takes some 20 ms, nearly all of it to parse.
OURS_SECONDS = 0.05

# What is refused only for what it has too much of.
RIGHT = {"Deploy": deploy("the-largest").SerializeToString()}

Path = tuple[FieldDescriptor, ...]


def paths(descriptor: Descriptor, above: Path = ()) -> Iterator[Path]:
    """Every repeated, map, string and Struct field that a request can carry."""
    for field in descriptor.fields:
        inner = field.message_type
        path = (*above, field)
        is_text = field.type == FieldDescriptor.TYPE_STRING
        if field.is_repeated or is_text or (inner and inner.full_name in MOST_BYTES):
            yield path
        elif inner and not inner.full_name.startswith("google.protobuf.Timestamp"):
            yield from paths(inner, path)


CASES = [(name, path) for name, method in METHODS.items() for path in paths(method.input_type)]


def shown(case: Any) -> str:
    return case if isinstance(case, str) else ".".join(field.name for field in case)


def largest(method: str, path: Path) -> bytes:
    """A request with as many entries of one field as fit, or one text as long as fits."""
    raw = _entries(path[-1])
    for field in reversed(path[:-1]):
        raw = _delimited(field.number, raw)
    # Concatenated messages are merged; without a predictor a spec is refused before the rest of it.
    raw = RIGHT.get(method, b"") + raw
    assert len(raw) <= LARGEST
    METHODS[method].input_type._concrete_class.FromString(raw)  # it is a right message
    return raw


def _entries(field: FieldDescriptor) -> bytes:
    room = LARGEST - 64
    if not field.is_repeated and field.type == FieldDescriptor.TYPE_STRING:
        return _delimited(field.number, b"x" * room)
    if not field.is_repeated:  # a Struct of nulls: its shortest entries
        one = _delimited(1, _delimited(1, b"a") + _delimited(2, b""))
        return _delimited(field.number, one * (room // len(one)))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _delimited(field.number, b"\x01" * room)
    if _is_map(field):
        return b"".join(
            _delimited(field.number, _delimited(1, b"%x" % i)) for i in range(room // 12)
        )
    return _delimited(field.number, b"") * (room // 3)


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def send(channel: grpc.Channel, method: str, raw: bytes) -> Any:
    described = METHODS[method]
    service = described.containing_service.full_name
    kind = channel.unary_stream if described.server_streaming else channel.unary_unary
    answer = kind(f"/{service}/{method}")(raw, timeout=PATIENCE_SECONDS)
    return next(answer, None) if described.server_streaming else answer


@pytest.mark.parametrize(("method", "path"), CASES, ids=shown)
def test_the_largest_request_that_fits_keeps_nobody_waiting(
    grpc_channel, loop_steps: LoopSteps, method, path
) -> None:
    code = StatusCode.OK
    try:
        send(grpc_channel, method, largest(method, path))
    except grpc.RpcError as error:
        code = error.code()
    assert code not in (StatusCode.INTERNAL, StatusCode.UNKNOWN)
    assert loop_steps.longest.seconds < OURS_SECONDS, str(loop_steps.longest)


@pytest.mark.parametrize("field", ["labels", "env", "node_selector"])
def test_a_request_with_too_many_entries_is_refused_before_they_are_parsed(
    grpc_channel, loop_steps: LoopSteps, field: str
) -> None:
    path = next(path for method, path in CASES if method == "Deploy" and path[-1].name == field)
    content = largest("Deploy", path)
    refusing, parsing = [], []
    for _ in range(5):
        with cpu_time() as taken:
            METHODS["Deploy"].input_type._concrete_class.FromString(content)
        parsing.append(taken.seconds)
        loop_steps.reset()
        _refuse(grpc_channel, content, 1)
        refusing.append(loop_steps.longest.seconds)
    assert min(refusing) < min(parsing)


def test_entries_of_a_map_are_counted_as_they_were_sent(grpc_channel) -> None:
    """A client that repeats a key would have them parsed, whatever few are left."""
    field = DeployRequest.DESCRIPTOR.fields_by_name["labels"]
    content = RIGHT["Deploy"] + _delimited(field.number, _delimited(1, b"team")) * 10_000
    assert len(DeployRequest.FromString(content).labels) == 1
    with pytest.raises(grpc.RpcError, match="labels: must have at most 128, got 10000"):
        send(grpc_channel, "Deploy", content)


def test_nor_does_the_largest_deploy_that_is_accepted(stub, name, loop_steps: LoopSteps) -> None:
    request = deploy(name, annotations={f"a{i}": "x" * 400 for i in range(512)})
    request.labels.update({f"l{i}": "x" * 63 for i in range(128)})
    request.spec.env.update({f"E{i}": "x" * 400 for i in range(1000)})
    request.spec.container.args.extend(["x" * 100] * 1000)
    request.spec.node_selector.update({f"n{i}": "x" * 63 for i in range(128)})
    request.spec.tolerations.extend([Toleration(key="k", operator="Exists")] * 128)
    stub.Deploy(request)
    for _ in range(3):
        stub.Get(GetRequest(name=name))
    assert loop_steps.longest.seconds < OURS_SECONDS, str(loop_steps.longest)


def test_a_request_that_was_refused_leaves_nothing_to_the_garbage_collector(grpc_channel) -> None:
    """Each takes many MiB as a message, and the collector counts objects, not bytes."""
    path = next(p for n, p in CASES if n == "Deploy" and p[-1].name == "tolerations")
    content = largest("Deploy", path)
    process = psutil.Process()
    gc.disable()
    try:
        _refuse(grpc_channel, content, 3)
        before = process.memory_info().rss
        _refuse(grpc_channel, content, 30)
        grown = process.memory_info().rss - before
    finally:
        gc.enable()
    assert grown < 200 << 20, f"{grown >> 20} MiB"


def test_a_watch_that_ends_with_an_error_leaves_nothing_to_the_garbage_collector(
    stub, name
) -> None:
    """It may have been open for hours, and old objects are examined seldom or never."""
    request = WatchStatusRequest(name=name, until=WatchStatusRequest.UNTIL_READY)
    gc.collect()
    before = _calls_in_memory()
    gc.disable()
    try:
        for _ in range(20):
            refused(
                StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", lambda r: [*stub.WatchStatus(r)], request
            )
        # The client has the status a moment before the server's call has ended.
        ends = time.monotonic() + PATIENCE_SECONDS
        while (left := _calls_in_memory() - before) > 0:
            assert time.monotonic() < ends, f"{left} calls"
            time.sleep(0.01)
    finally:
        gc.enable()


def _calls_in_memory() -> int:
    return sum(isinstance(found, CallLog) for found in gc.get_objects())


def _refuse(channel: grpc.Channel, content: bytes, times: int) -> None:
    for _ in range(times):
        with pytest.raises(grpc.RpcError):
            send(channel, "Deploy", content)


def test_every_list_and_map_of_a_request_has_a_limit() -> None:
    without = [
        f"{name}: {shown(path)}"
        for name, path in CASES
        if path[-1].is_repeated and path[-1].full_name not in MOST_ENTRIES
    ]
    assert not without


def test_a_list_that_is_too_long_is_refused_by_its_path_and_both_numbers(stub, name) -> None:
    request = deploy(name)
    request.spec.tolerations.extend([Toleration()] * 129)
    request.spec.env.update(dict.fromkeys(map(str, range(1001)), ""))
    refusal = refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.Deploy, request)
    assert refusal.fields == ["spec.env", "spec.tolerations"]
    assert "spec.tolerations: must have at most 128, got 129" in refusal.message
    assert "spec.env: must have at most 1000, got 1001" in refusal.message
