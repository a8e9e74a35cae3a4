"""WatchStatus with `until`: how it ends, decided by the rollout and the present alone."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import Failure, InferenceServiceStatus
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    DeployRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)
from modelservice.v1.rollout_service_pb2 import StartRequest, StopRequest

from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from server.domain.service.commands import STOP_ANNOTATION
from tests.refusals import refusal_of

from .requests import READY, deploy, failed, key, watching

UNTIL_READY = WatchStatusRequest.UNTIL_READY
UNTIL_GONE = WatchStatusRequest.UNTIL_GONE
UNTIL_STOPPED = WatchStatusRequest.UNTIL_STOPPED

STOPPED = InferenceServiceStatus.STATE_STOPPED


@pytest.fixture
def open_rollouts(memory) -> None:
    """Rollouts do not become ready by themselves."""
    memory.target.ready_after = None


def ended(stub, name, rollout_id="", until=UNTIL_READY):
    """The messages of a watch, and the refusal that ended it; None for a good end."""
    with watching(stub, name=name, until=until, rollout_id=rollout_id) as stream:
        messages, error = stream.rest()
    return messages, refusal_of(error) if error else None


def test_a_rollout_that_is_ready_ends_ok_with_the_service_last(stub, memory, name) -> None:
    memory.target.ready_after = timedelta(seconds=0.2)
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    messages, refusal = ended(stub, name, rollout_id)
    assert refusal is None
    assert messages[-1].service.status.state == READY
    assert messages[-1].service.rollout_id == rollout_id
    assert all(m.service.status.state != READY for m in messages[:-1])


def test_a_resumed_wait_sends_the_deciding_service_although_it_has_not_changed(
    stub, memory, name
) -> None:
    memory.target.ready_after = timedelta(seconds=0)
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    ended(stub, name, rollout_id)
    with watching(stub, name=name) as stream:
        _, synced = stream.take(2)
    fields = {"name": name, "until": UNTIL_READY, "rollout_id": rollout_id}
    with watching(stub, resume_token=synced.resume_token, **fields) as stream:
        messages, error = stream.rest()
    assert error is None
    assert messages[-1].service.status.state == READY


@pytest.mark.usefixtures("open_rollouts")
def test_a_failed_rollout_ends_with_its_failure_in_the_details(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    memory.set_status(key(name), failed(rollout_id, log_lines=("oh",) * 3, restart_count=4))
    messages, refusal = ended(stub, name, rollout_id)
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "ROLLOUT_FAILED")
    assert refusal.failure.reason == Failure.REASON_IMAGE_PULL
    assert (refusal.failure.pod, refusal.failure.restart_count) == ("pod-1", 4)
    assert list(refusal.failure.log_lines) == ["oh"] * 3
    assert messages[-1].service.status.failure.pod == "pod-1"


@pytest.mark.usefixtures("open_rollouts")
def test_a_failure_that_would_not_fit_into_metadata_still_arrives(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    lines = tuple(f"{number} " + "日" * 60 for number in range(20))
    memory.set_status(key(name), failed(rollout_id, log_lines=lines))
    messages, refusal = ended(stub, name, rollout_id)
    assert refusal.reason == "ROLLOUT_FAILED"
    assert list(refusal.failure.log_lines) == list(lines)[-len(refusal.failure.log_lines) :]
    assert list(messages[-1].service.status.failure.log_lines) == list(lines)


@pytest.mark.usefixtures("open_rollouts")
def test_a_rollout_that_fails_while_an_older_one_serves_ends_at_once(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    memory.set_status(key(name), failed(rollout_id, State.DEGRADED))
    _, refusal = ended(stub, name, rollout_id)
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "ROLLOUT_FAILED")


@pytest.mark.usefixtures("open_rollouts")
def test_a_service_degraded_by_another_rollout_is_still_awaited(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    memory.set_status(key(name), failed(Rollout("other", 1).id, State.DEGRADED))
    with watching(stub, name=name, until=UNTIL_READY, rollout_id=rollout_id) as stream:
        stream.until(lambda message: message.type == WatchStatusResponse.TYPE_SYNCED)
        memory.set_status(key(name), Status(State.READY))
        messages, error = stream.rest()
    assert error is None
    assert messages[-1].service.status.state == READY


@pytest.mark.usefixtures("memory")
def test_a_stopped_service_ends_the_wait(stub, name) -> None:
    rollout_id = stub.Deploy(deploy(name, annotations={STOP_ANNOTATION: "true"})).rollout_id
    _, refusal = ended(stub, name, rollout_id)
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "SERVICE_STOPPED")


@pytest.mark.usefixtures("open_rollouts")
def test_a_newer_rollout_supersedes_the_awaited_one(stub, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    with watching(stub, name=name, until=UNTIL_READY, rollout_id=rollout_id) as stream:
        stream.take(2)
        newer = stub.Deploy(deploy(name, "example.org/model:2")).rollout_id
        messages, error = stream.rest()
    refusal = refusal_of(error)
    assert (refusal.code, refusal.reason) == (StatusCode.ABORTED, "ROLLOUT_SUPERSEDED")
    assert messages[-1].service.rollout_id == newer
    _, refusal = ended(stub, name, rollout_id)
    assert refusal.reason == "ROLLOUT_SUPERSEDED"


@pytest.mark.usefixtures("open_rollouts")
def test_a_service_that_is_deleted_takes_its_rollouts_along(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    with watching(stub, name=name, until=UNTIL_READY, rollout_id=rollout_id) as stream:
        stream.take(2)
        stub.Delete(DeleteRequest(name=name))
        _, error = stream.rest()
    assert refusal_of(error).reason == "ROLLOUT_GONE"
    memory.finish_delete(key(name))
    stub.Deploy(deploy(name))
    _, refusal = ended(stub, name, rollout_id)
    assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "ROLLOUT_GONE")


def test_without_a_rollout_the_newest_at_the_opening_is_awaited(stub, name) -> None:
    stub.Deploy(deploy(name))
    messages, refusal = ended(stub, name)
    assert refusal is None
    assert messages[-1].service.status.state == READY


def test_without_a_rollout_an_absent_service_is_not_found(stub, name) -> None:
    messages, refusal = ended(stub, name)
    assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")
    assert messages == []


@pytest.mark.usefixtures("open_rollouts")
def test_a_deadline_ends_a_wait_after_its_last_state_was_sent(stub, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    request = WatchStatusRequest(name=name, until=UNTIL_READY, rollout_id=rollout_id)
    # Its first state takes some milliseconds.
    call = stub.WatchStatus(request, timeout=5)
    assert next(call).service.rollout_id == rollout_id
    with pytest.raises(Exception, match="Deadline"):
        list(call)
    assert call.code() == StatusCode.DEADLINE_EXCEEDED


def test_until_gone_ends_when_the_service_is_gone(stub, memory, name) -> None:
    uid = stub.Deploy(deploy(name)).service.uid
    stub.Delete(DeleteRequest(name=name))
    timer = threading.Timer(0.2, memory.finish_delete, [key(name)])
    timer.start()
    messages, refusal = ended(stub, name, until=UNTIL_GONE)
    timer.join()
    assert refusal is None
    assert messages[-1].type == WatchStatusResponse.TYPE_DELETED
    assert messages[-1].service.uid == uid


def test_until_gone_of_an_absent_service_ends_at_once(stub, name) -> None:
    _, refusal = ended(stub, name, until=UNTIL_GONE)
    assert refusal is None


def test_until_gone_of_a_rollout_waits_for_its_very_service(stub, memory, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    stub.Delete(DeleteRequest(name=name))
    memory.finish_delete(key(name))
    stub.Deploy(DeployRequest(name=name, spec=deploy(name).spec))
    _, refusal = ended(stub, name, rollout_id, UNTIL_GONE)
    assert refusal is None


def test_until_stopped_ends_once_no_pod_is_left(stub, memory, rollouts, name) -> None:
    stub.Deploy(deploy(name))
    memory.target.ready_after = timedelta(seconds=0.2)
    rollout_id = rollouts.Stop(StopRequest(name=name)).rollout_id
    messages, refusal = ended(stub, name, rollout_id, UNTIL_STOPPED)
    assert refusal is None
    assert messages[-1].service.status.state == STOPPED
    assert all(m.service.status.state != STOPPED for m in messages[:-1])
    # Again, as after a cut.
    assert ended(stub, name, rollout_id, UNTIL_STOPPED)[1] is None


@pytest.mark.usefixtures("open_rollouts")
def test_until_stopped_is_superseded_once_the_service_is_started_again(
    stub, rollouts, name
) -> None:
    stub.Deploy(deploy(name))
    rollout_id = rollouts.Stop(StopRequest(name=name)).rollout_id
    with watching(stub, name=name, until=UNTIL_STOPPED, rollout_id=rollout_id) as stream:
        stream.take(2)
        started = rollouts.Start(StartRequest(name=name)).rollout_id
        messages, error = stream.rest()
    refusal = refusal_of(error)
    assert (refusal.code, refusal.reason) == (StatusCode.ABORTED, "ROLLOUT_SUPERSEDED")
    assert messages[-1].service.rollout_id == started
    assert ended(stub, name, rollout_id, UNTIL_STOPPED)[1].reason == "ROLLOUT_SUPERSEDED"


def test_until_stopped_waits_through_a_deploy_that_leaves_the_service_stopped(
    stub, memory, rollouts, name
) -> None:
    stub.Deploy(deploy(name))
    memory.target.ready_after = None
    rollout_id = rollouts.Stop(StopRequest(name=name)).rollout_id
    with watching(stub, name=name, until=UNTIL_STOPPED, rollout_id=rollout_id) as stream:
        stream.take(2)
        memory.target.ready_after = timedelta(seconds=0.2)
        later = stub.Deploy(deploy(name, "example.org/model:2")).rollout_id
        messages, error = stream.rest()
    assert error is None
    assert (messages[-1].service.rollout_id, messages[-1].service.status.state) == (later, STOPPED)


def test_until_stopped_of_a_service_that_is_not_asked_to_stop_is_refused(stub, name) -> None:
    rollout_id = stub.Deploy(deploy(name)).rollout_id
    for awaited in (rollout_id, ""):
        _, refusal = ended(stub, name, awaited, UNTIL_STOPPED)
        code = StatusCode.FAILED_PRECONDITION
        assert (refusal.code, refusal.reason) == (code, "SERVICE_NOT_STOPPING")


def test_until_stopped_without_a_rollout_waits_for_the_newest(stub, rollouts, name) -> None:
    _, refusal = ended(stub, name, until=UNTIL_STOPPED)
    assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")
    stub.Deploy(deploy(name))
    rollouts.Stop(StopRequest(name=name))
    assert ended(stub, name, until=UNTIL_STOPPED)[1] is None


@pytest.mark.usefixtures("open_rollouts")
def test_a_service_that_is_deleted_while_it_stops_ends_the_wait(
    stub, memory, rollouts, name
) -> None:
    stub.Deploy(deploy(name))
    rollout_id = rollouts.Stop(StopRequest(name=name)).rollout_id
    with watching(stub, name=name, until=UNTIL_STOPPED, rollout_id=rollout_id) as stream:
        stream.take(2)
        stub.Delete(DeleteRequest(name=name))
        _, error = stream.rest()
    assert refusal_of(error).reason == "ROLLOUT_GONE"
    memory.finish_delete(key(name))
    assert ended(stub, name, rollout_id, UNTIL_STOPPED)[1].reason == "ROLLOUT_GONE"
