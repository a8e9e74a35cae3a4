"""WatchStatus: what comes, and in which order."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import InferenceServiceStatus
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    ListRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.control.resume_token import FORMAT, MOST_SPANS
from server.control.watch_stream import Watch
from server.domain.kubernetes.selectors import Selector
from server.domain.opaque_tokens import encode_token
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import ServiceKey
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused
from tests.serving import serving, settings

from .requests import READY, deploy, eventually, failed, key, kinds, watching

CHANGED = WatchStatusResponse.TYPE_CHANGED
HEARTBEAT = WatchStatusResponse.TYPE_HEARTBEAT


@pytest.fixture
def namespace(name) -> str:
    """A namespace that no other test deploys into."""
    return f"ns-{name}"


def test_the_current_state_comes_first_then_each_change(stub, memory, name) -> None:
    memory.target.ready_after = None
    stub.Deploy(deploy(name))
    with watching(stub, name=name) as stream:
        snapshot, synced = stream.take(2)
        assert kinds([snapshot, synced]) == ["SNAPSHOT", "SYNCED"]
        assert snapshot.service.status.state == InferenceServiceStatus.STATE_PENDING
        assert not synced.HasField("service")
        memory.set_status(key(name), Status(State.PROGRESSING))
        change = stream.next()
        assert change.type == CHANGED
        assert change.service.status.state == InferenceServiceStatus.STATE_PROGRESSING
        assert change.HasField("view_age")
        age = datetime.now(UTC) - change.observe_time.ToDatetime(tzinfo=UTC)
        assert age.total_seconds() < 5


def test_a_name_that_does_not_exist_is_synced_and_waited_for(stub, name) -> None:
    with watching(stub, name=name) as stream:
        assert kinds(stream.take(1)) == ["SYNCED"]
        stub.Deploy(deploy(name))
        first = stream.next()
        assert (first.type, first.service.name) == (CHANGED, name)


def test_a_service_made_anew_is_deleted_then_comes_as_a_new_one(stub, memory, name) -> None:
    first = stub.Deploy(deploy(name)).service
    with watching(stub, name=name) as stream:
        stream.until(lambda message: message.type == WatchStatusResponse.TYPE_SYNCED)
        stub.Delete(DeleteRequest(name=name))
        memory.finish_delete(key(name))
        second = stub.Deploy(deploy(name)).service
        gone = stream.until(lambda message: message.type == WatchStatusResponse.TYPE_DELETED)
        assert gone.service.uid == first.uid
        new = stream.next()
        assert (new.type, new.service.uid) == (CHANGED, second.uid)


def test_a_namespace_watch_sends_its_own_services_only(stub, namespace) -> None:
    stub.Deploy(deploy("a", namespace=namespace))
    with watching(stub, namespace=namespace) as stream:
        stream.until(lambda message: message.type == WatchStatusResponse.TYPE_SYNCED)
        stub.Deploy(deploy("b", namespace=f"{namespace}-other"))
        stub.Deploy(deploy("c", namespace=namespace))
        new = stream.until(lambda message: message.service.name != "a")
        assert (new.service.namespace, new.service.name) == (namespace, "c")


def test_a_watch_of_all_namespaces_sends_every_service(stub, namespace) -> None:
    with watching(stub, namespace="-") as stream:
        stream.until(lambda message: message.type == WatchStatusResponse.TYPE_SYNCED)
        for each in (namespace, f"{namespace}-other"):
            stub.Deploy(deploy("a", namespace=each))
            stream.until(lambda message, each=each: message.service.namespace == each)


def test_a_service_that_the_selector_no_longer_covers_has_left(stub, namespace) -> None:
    stub.Deploy(deploy("a", namespace=namespace, labels={"team": "vision"}))
    stub.Deploy(deploy("b", namespace=namespace, labels={"team": "text"}))
    with watching(stub, namespace=namespace, label_selector="team=vision") as stream:
        opening = [stream.next()]
        while opening[-1].type != WatchStatusResponse.TYPE_SYNCED:
            opening.append(stream.next())
        assert {message.service.name for message in opening[:-1]} == {"a"}
        stub.Deploy(deploy("a", namespace=namespace, labels={"team": "text"}))
        left = stream.until(lambda message: message.type != CHANGED)
        assert (left.type, left.service.name) == (WatchStatusResponse.TYPE_LEFT, "a")


def test_a_resumed_stream_says_left_only_of_what_its_reader_may_have_seen(stub, namespace) -> None:
    stub.Deploy(deploy("a", namespace=namespace, labels={"team": "vision"}))
    stub.Deploy(deploy("b", namespace=namespace, labels={"team": "text"}))
    selected = {"namespace": namespace, "label_selector": "team=vision"}
    with watching(stub, **selected) as stream:
        synced = stream.until(lambda message: message.type == WatchStatusResponse.TYPE_SYNCED)
    stub.Deploy(deploy("a", namespace=namespace, labels={"team": "text"}))
    stub.Deploy(deploy("b", namespace=namespace, labels={"team": "sound"}))
    stub.Deploy(deploy("c", namespace=namespace, labels={"team": "sound"}))
    with watching(stub, **selected, resume_token=synced.resume_token) as stream:
        resumed = stream.take(2)
    assert kinds(resumed) == ["LEFT", "SYNCED"]
    left = resumed[0].service
    assert left.name == "a"
    assert {field.name for field, _ in left.ListFields()} == {"namespace", "name", "uid"}


def test_log_lines_come_to_watches_of_one_service_only(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    memory.set_status(key(name), failed(rollout_id, log_lines=("no such file",)))
    for fields, lines in (({"name": name}, ["no such file"]), ({"namespace": "-"}, [])):
        with watching(stub, **fields) as stream:
            message = stream.until(
                lambda m: m.service.name == name and m.service.status.HasField("failure")
            )
            assert message.service.status.failure.log_lines == lines


def test_heartbeats_fill_the_silence_and_carry_the_view_age(stub, memory, name) -> None:
    memory.away()
    began = time.monotonic()
    with watching(stub, name=name, heartbeat_interval=Duration(seconds=1)) as stream:
        assert kinds(stream.take(1)) == ["SYNCED"]
        first, second = stream.take(2)
        assert kinds([first, second]) == ["HEARTBEAT", "HEARTBEAT"]
        assert 1.8 < time.monotonic() - began < 20
        assert second.view_age.ToTimedelta() > first.view_age.ToTimedelta()


def test_changes_that_do_not_concern_a_stream_do_not_put_off_its_heartbeat(stub, namespace) -> None:
    fields = {"namespace": namespace, "label_selector": "team=none"}
    with watching(stub, heartbeat_interval=Duration(seconds=1), **fields) as stream:
        assert kinds(stream.take(1)) == ["SYNCED"]
        quiet = threading.Event()
        noise = threading.Thread(target=_deploy_until, args=(quiet, stub, namespace))
        noise.start()
        try:
            began = time.monotonic()
            assert stream.next().type == HEARTBEAT
            assert time.monotonic() - began < PATIENCE_SECONDS
        finally:
            quiet.set()
            noise.join()


def _deploy_until(quiet: threading.Event, stub, namespace: str) -> None:
    number = 0
    while not quiet.wait(0.1):
        number += 1
        stub.Deploy(deploy("noise", f"example.org/model:{number}", namespace=namespace))


def test_a_resumed_stream_sends_the_changes_since_its_token(stub, memory, namespace) -> None:
    for each in ("kept", "changed", "deleted"):
        stub.Deploy(deploy(each, namespace=namespace))
    settled(stub, namespace)
    with watching(stub, namespace=namespace) as stream:
        token = stream.until(
            lambda message: message.type == WatchStatusResponse.TYPE_SYNCED
        ).resume_token
    stub.Deploy(deploy("changed", "example.org/model:2", namespace=namespace))
    stub.Delete(DeleteRequest(namespace=namespace, name="deleted"))
    memory.finish_delete(ServiceKey(namespace, "deleted"))
    stub.Deploy(deploy("new", namespace=namespace))
    settled(stub, namespace)
    with watching(stub, namespace=namespace, resume_token=token) as stream:
        messages = [stream.next()]
        while messages[-1].type != WatchStatusResponse.TYPE_SYNCED:
            messages.append(stream.next())
    expected = [("CHANGED", "changed"), ("DELETED", "deleted"), ("CHANGED", "new"), ("SYNCED", "")]
    assert named(messages) == expected
    for nth, message in enumerate(messages, start=1):
        with watching(stub, namespace=namespace, resume_token=message.resume_token) as stream:
            rest = [stream.next()]
            while rest[-1].type != WatchStatusResponse.TYPE_SYNCED:
                rest.append(stream.next())
        assert named(rest) == (expected[nth:] or [("SYNCED", "")])


def named(messages: list[WatchStatusResponse]) -> list[tuple[str, str]]:
    """The type of each message, and the name of its service."""
    return [(kind, m.service.name) for kind, m in zip(kinds(messages), messages, strict=True)]


def settled(stub, namespace: str) -> None:
    """Wait until every service is READY, so that nothing changes by itself any more."""
    eventually(
        "all are ready",
        lambda: all(
            service.status.state == READY
            for service in stub.List(ListRequest(namespace=namespace)).services
        ),
    )


def test_a_watch_of_many_begins_anew_in_another_process(stub, namespace) -> None:
    stub.Deploy(deploy("a", namespace=namespace))
    with watching(stub, namespace=namespace) as stream:
        token = stream.until(
            lambda message: message.type == WatchStatusResponse.TYPE_SYNCED
        ).resume_token
    with serving(settings()) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        other = ModelServiceStub(channel)
        other.Deploy(deploy("a", namespace=namespace))
        settled(other, namespace)
        with watching(other, namespace=namespace, resume_token=token) as stream:
            begun = stream.take(2)
            assert kinds([*begun, stream.next()]) == ["RESET", "SNAPSHOT", "SYNCED"]
        # Cut within the snapshot, it must not be continued where the first token was.
        with watching(stub, namespace=namespace, resume_token=begun[1].resume_token) as stream:
            assert kinds(stream.take(3)) == ["RESET", "SNAPSHOT", "SYNCED"]


def test_a_token_of_an_earlier_release_begins_anew(stub, name) -> None:
    stub.Deploy(deploy(name))
    binding = Watch(key(name), Selector()).binding
    token = encode_token(["0a1b2c3d", 7, binding])
    with watching(stub, name=name, resume_token=token) as stream:
        assert kinds(stream.take(3)) == ["RESET", "SNAPSHOT", "SYNCED"]


def test_a_resume_token_belongs_to_its_own_watch(stub, name) -> None:
    with watching(stub, name=name) as stream:
        token = stream.next().resume_token
    for other in (
        WatchStatusRequest(name=f"{name}-other", resume_token=token),
        WatchStatusRequest(namespace="-", resume_token=token),
        WatchStatusRequest(name=name, resume_token=token[1:]),
        WatchStatusRequest(name=name, resume_token="what"),
    ):
        refused(
            StatusCode.INVALID_ARGUMENT,
            "RESUME_TOKEN_INVALID",
            lambda request: list(stub.WatchStatus(request, timeout=PATIENCE_SECONDS)),
            other,
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"uid": "u\ud800"},
        {"uid": "u" * 1000},
        {"version": 2**63},
        {"generation": -(2**63) - 1},
        {"made_at": 10**400},
        {"born": "4", "at": 5},
        {"born": 4},
        dict.fromkeys(map(str, range(2 * MOST_SPANS + 2)), 4),
    ],
)
@pytest.mark.parametrize("of_many", [False, True])
def test_a_forged_resume_token_is_refused(stub, name, changed: dict[str, object], of_many) -> None:
    stub.Deploy(deploy(name))
    target = ServiceKey("-", "") if of_many else key(name)
    parts: dict[str, Any] = {
        "epoch": "0a1b2c3d",
        "version": 7,
        "scope": "",
        "uid": "u",
        "generation": 1,
        "digest": "0123456789abcdef",
        "remembered": "01234567",
        "position": "",
        "made_at": 1,
    }

    def request(parts: Mapping[str, Any]) -> WatchStatusRequest:
        seal = fingerprint([Watch(target, Selector()).binding, *parts.values()])
        token = encode_token([FORMAT, seal, *parts.values()])
        return WatchStatusRequest(namespace=target.namespace, name=target.name, resume_token=token)

    def first(request: WatchStatusRequest) -> WatchStatusResponse:
        stream = stub.WatchStatus(request, timeout=PATIENCE_SECONDS)
        try:
            return next(stream)
        finally:
            stream.cancel()

    assert first(request(parts))
    refused(StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID", first, request(parts | changed))


def test_a_slow_reader_gets_the_last_state_and_not_every_one(stub, memory, name) -> None:
    memory.target.ready_after = None
    stub.Deploy(deploy(name))
    with watching(stub, name=name) as stream:
        assert kinds(stream.take(2)) == ["SNAPSHOT", "SYNCED"]
        for number in range(1000):
            # Large, so that the transport's buffers are full long before the end.
            memory.set_status(key(name), Status(State.PROGRESSING, f"{number} {'x' * 20_000}"))
        memory.set_status(key(name), Status(State.READY))
        time.sleep(0.5)
        count = 0
        for message in stream.call:
            count += 1
            if message.service.status.state == READY:
                break
        assert message.service.status.state == READY
        assert count < 900


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (WatchStatusRequest(until=1), "name"),
        (WatchStatusRequest(namespace="-", until=2), "name"),
        (WatchStatusRequest(name="x", until=9), "until"),
        (WatchStatusRequest(name="x", label_selector="a"), "label_selector"),
        (WatchStatusRequest(label_selector="a=b=c"), "label_selector"),
        (WatchStatusRequest(name="x", namespace="-"), "namespace"),
        (WatchStatusRequest(name="X"), "name"),
        (WatchStatusRequest(name="x", until=1, rollout_id="1"), "rollout_id"),
        (WatchStatusRequest(heartbeat_interval=Duration(nanos=1)), "heartbeat_interval"),
        (WatchStatusRequest(heartbeat_interval=Duration(seconds=-5)), "heartbeat_interval"),
    ],
)
def test_a_watch_that_makes_no_sense_is_refused_by_the_field(stub, request_, path) -> None:
    refusal = refused(
        StatusCode.INVALID_ARGUMENT,
        "FIELD_INVALID",
        lambda request: list(stub.WatchStatus(request, timeout=PATIENCE_SECONDS)),
        request_,
    )
    assert refusal.fields == [path]
