"""The core without I/O, case by case."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from modelservice.v1 import model_service_pb2, registry_service_pb2, rollout_service_pb2
from modelservice.v1.errors_pb2 import ErrorReason
from modelservice.v1.inference_service_pb2 import Failure, InferenceService, InferenceServiceSpec
from modelservice.v1.model_service_pb2 import DeleteRequest, DeleteResponse, WatchStatusRequest
from modelservice.v1.model_service_pb2 import WatchStatusResponse as Message
from modelservice.v1.registry_pb2 import RegisteredModel
from modelservice.v1.registry_service_pb2 import CreateRegisteredModelRequest
from modelservice.v1.rollout_service_pb2 import (
    ListRevisionsRequest,
    RollbackRequest,
    StartRequest,
    StopRequest,
)
from modelservice_client import AsyncClient, AsyncWatch, Client, Watch, rpcs
from modelservice_client.core import calls, errors, watching
from modelservice_client.core.errors import error_of
from modelservice_client.core.retry import Policy
from modelservice_client.core.steps import Close, Emit, Open, Pause, Receive, Send

from tests.client.core_world import World, history

LOST = errors.NotReachable("cut", code=StatusCode.UNAVAILABLE)


def answered(routine: Any, *answers: Any) -> tuple[Any, list[Any]]:
    """The result or the error of a routine whose calls are answered so, and the requests."""
    sent: list[Any] = []
    left = list(answers)
    try:
        step = next(routine)
        while True:
            if isinstance(step, Pause):
                step = routine.send(None)
                continue
            assert isinstance(step, Send)
            sent.append(step.request)
            answer = left.pop(0)
            failed = isinstance(answer, Exception)
            step = routine.throw(answer) if failed else routine.send(answer)
    except StopIteration as ended:
        return ended.value, sent
    except errors.ModelServiceError as error:
        return error, sent


POLICY = Policy(lambda: 0.0, lambda: 0.0)


def status_of(reason: str, code: StatusCode, *details: Any) -> list[tuple[str, str | bytes]]:
    status = Status(code=code.value[0])
    for detail in (ErrorInfo(domain="modelservice", reason=reason), *details):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return [("grpc-status-details-bin", status.SerializeToString())]


def test_every_reason_is_an_error_of_its_code() -> None:
    codes = {code.value[0]: code for code in StatusCode}
    for name, number in ErrorReason.items():
        if number == 0:
            continue
        code, reason = codes[number // 100], name.removeprefix("ERROR_REASON_")
        error = error_of(code, "why", status_of(reason, code))
        plain = type(error_of(code, "why", status_of("NEW_ONE", code)))
        assert plain is not errors.ModelServiceError
        assert (error.code, error.reason, error.passes) == (code, reason, False)
        assert isinstance(error, plain | errors.RolloutEnded), reason


def test_a_status_without_a_reason_of_the_server_is_a_lost_connection_by_its_code() -> None:
    lost = {code for code in StatusCode if isinstance(error_of(code, "", ()), errors.NotReachable)}
    assert {code.name for code in lost} == {
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "UNKNOWN",
        "INTERNAL",
        "CANCELLED",
    }
    assert error_of(StatusCode.RESOURCE_EXHAUSTED, "too large", ()).passes is False


def test_details_are_read_and_what_cannot_be_read_is_left_out() -> None:
    code = StatusCode.INVALID_ARGUMENT
    violations = BadRequest(
        field_violations=[BadRequest.FieldViolation(field="name", description="must be set")]
    )
    retry = RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    error = error_of(code, "no", status_of("FIELD_INVALID", code, violations, retry))
    assert error.violations == (errors.FieldViolation("name", "must be set"),)
    assert error.retry_after == 1.5
    assert str(error) == "INVALID_ARGUMENT FIELD_INVALID: no\nname: must be set"
    same = error_of(code, "name: must be set", status_of("FIELD_INVALID", code, violations))
    assert str(same) == "INVALID_ARGUMENT FIELD_INVALID: name: must be set"
    for value in (b"\xff", b""):
        damaged = error_of(code, "x" * 10_000, [("grpc-status-details-bin", value)])
        assert damaged.reason == ""
        assert len(str(damaged)) < 5000
    pushbacks = {"1500": 1.5, "-1": None, "soon": None, "0": 0.0, "9" * 5000: None}
    for text, seconds in pushbacks.items():
        pushed = error_of(StatusCode.RESOURCE_EXHAUSTED, "", [("grpc-retry-pushback-ms", text)])
        assert pushed.retry_after == seconds


def test_a_delay_of_ages_is_not_waited_for() -> None:
    retry = RetryInfo(retry_delay=Duration(seconds=2**62, nanos=5))
    code = StatusCode.UNAVAILABLE
    error = error_of(code, "later", status_of("VIEW_NOT_READY", code, retry))
    assert error.passes
    assert POLICY.begin("Get", None).pause_after(error) == 60


def test_a_deletion_that_was_not_answered_is_repeated_and_may_find_nothing() -> None:
    request = DeleteRequest(name="iris")
    response = DeleteResponse()
    result, sent = answered(calls.call(POLICY, rpcs.DELETE, request, 60), LOST, response)
    assert result is response
    assert [attempt.allow_missing for attempt in sent] == [False, True]
    assert not request.allow_missing


def test_what_creates_is_not_repeated_after_a_lost_answer_but_where_nothing_was_done() -> None:
    request = CreateRegisteredModelRequest(model=RegisteredModel(project="p", name="m"))
    lost, sent = answered(calls.call(POLICY, rpcs.CREATE_REGISTERED_MODEL, request, 60), LOST)
    assert (lost, len(sent)) == (LOST, 1)
    busy = errors.ResourceExhausted("busy", reason="TOO_MANY_REQUESTS", retry_after=2)
    done = rpcs.CREATE_REGISTERED_MODEL.response()
    routine = calls.call(POLICY, rpcs.CREATE_REGISTERED_MODEL, request, 60)
    result, sent = answered(routine, busy, done)
    assert (result, len(sent)) == (done, 2)


def test_an_error_after_a_lost_attempt_says_that_it_may_be_about_the_own_write() -> None:
    request = calls.deploy_request(None, {"name": "iris", "create_only": True}, lambda: "r-1")
    taken = errors.AlreadyExists("taken", code=StatusCode.ALREADY_EXISTS, reason="ALREADY_EXISTS")
    error, sent = answered(calls.write(POLICY, rpcs.DEPLOY, request, 60), LOST, taken)
    assert error is taken
    assert error.earlier_attempt_lost
    assert "may have been done" in str(error)
    assert [attempt.request_id for attempt in sent] == ["r-1", "r-1"]


def test_a_failure_says_what_became_of_its_rollback() -> None:
    failure = Failure(reason=Failure.REASON_MODEL_LOAD, message="no weights")
    failed = errors.RolloutFailed("it failed", failure=failure, code=StatusCode.FAILED_PRECONDITION)
    lines = str(failed).splitlines()
    back = InferenceService(name="iris")
    assert str(errors.RolledBack(failed, back, 3)).splitlines() == [
        *lines,
        "rolled back: revision 3 serves again",
    ]
    unknown = str(errors.RolledBack(failed, back, 0)).splitlines()[-1]
    assert unknown == "rolled back: the last revision that was ready serves again"
    failed.rollback_error = errors.NoReadyRevision("none was ready", reason="NO_READY_REVISION")
    assert str(failed).splitlines() == [
        *lines,
        "not rolled back: UNKNOWN NO_READY_REVISION: none was ready",
    ]


def test_the_request_id_of_a_rollback_is_that_of_its_deploy_within_the_limit() -> None:
    assert calls.on_failure_id("github-1-1") == "github-1-1-on-failure"
    assert calls.on_failure_id("a" * 64) == "a" * 53 + "-on-failure"


UNRECORDED = errors.Unavailable(
    "nothing was written",
    code=StatusCode.UNAVAILABLE,
    reason="AUDIT_UNAVAILABLE",
    details={"written": "false"},
    retry_after=2,
)
DONE_UNRECORDED = errors.Unavailable(
    "it is done",
    code=StatusCode.UNAVAILABLE,
    reason="AUDIT_UNAVAILABLE",
    details={"written": "true"},
    retry_after=2,
)


def test_a_write_that_the_server_did_not_begin_for_want_of_its_record_is_not_lost() -> None:
    request = DeleteRequest(name="iris")
    absent = errors.ServiceNotFound("no such service", code=StatusCode.NOT_FOUND)
    error, sent = answered(calls.call(POLICY, rpcs.DELETE, request, 60), UNRECORDED, absent)
    assert error is absent
    assert not error.earlier_attempt_lost
    assert [attempt.allow_missing for attempt in sent] == [False, False]
    model = CreateRegisteredModelRequest(model=RegisteredModel(project="p", name="m"))
    done = rpcs.CREATE_REGISTERED_MODEL.response()
    create = calls.call(POLICY, rpcs.CREATE_REGISTERED_MODEL, model, 60)
    assert answered(create, UNRECORDED, done) == (done, [model, model])


def test_a_write_that_is_done_without_the_record_of_its_end_is_repeated_only_where_it_can_be() -> (
    None
):
    request = DeleteRequest(name="iris")
    response = DeleteResponse()
    _, sent = answered(calls.call(POLICY, rpcs.DELETE, request, 60), DONE_UNRECORDED, response)
    assert [attempt.allow_missing for attempt in sent] == [False, True]
    model = CreateRegisteredModelRequest(model=RegisteredModel(project="p", name="m"))
    create = calls.call(POLICY, rpcs.CREATE_REGISTERED_MODEL, model, 60)
    assert answered(create, DONE_UNRECORDED) == (DONE_UNRECORDED, [model])


REFUSED = errors.NotReachable(
    "failed to connect to all addresses; last error: Connection refused",
    code=StatusCode.UNAVAILABLE,
)
UNRESOLVED = errors.NotReachable("errors resolving iris:1: not found", code=StatusCode.UNAVAILABLE)
WRITE = calls.deploy_request(None, {"name": "iris"}, lambda: "r-1")
CHECK = calls.deploy_request(None, {"name": "iris", "validate_only": True}, lambda: "r-1")


def passing(now: list[float], seconds: float, patience: float = 60.0, target: str = "") -> Policy:
    """A policy whose clock is `now`; so many seconds pass in each pause between two attempts."""

    def random() -> float:
        now[0] += seconds
        return 0.0

    return Policy(lambda: now[0], random, patience, target=target)


@pytest.mark.parametrize(
    ("rpc", "request_", "attempts", "may_be_done"),
    [
        (rpcs.DEPLOY, WRITE, [REFUSED, UNRESOLVED], False),
        (rpcs.DEPLOY, WRITE, [REFUSED, LOST], True),
        (rpcs.DEPLOY, WRITE, [LOST, REFUSED], True),
        (rpcs.DEPLOY, CHECK, [LOST, LOST], False),
        (rpcs.ROLLBACK, RollbackRequest(name="iris", request_id="r-1"), [LOST, REFUSED], True),
        (rpcs.STOP, StopRequest(name="iris", request_id="r-1"), [LOST, REFUSED], True),
        (rpcs.START, StartRequest(name="iris", validate_only=True), [LOST, LOST], False),
        (rpcs.LIST_REVISIONS, ListRevisionsRequest(name="iris"), [LOST, LOST], False),
        (rpcs.LIST, model_service_pb2.ListRequest(), [LOST, LOST], False),
    ],
)
def test_only_a_write_that_was_sent_may_have_been_done(
    rpc: Any, request_: Any, attempts: list[errors.ModelServiceError], may_be_done: bool
) -> None:
    now = [0.0]
    # The first pause outlasts the patience.
    policy = passing(now, 31.0, patience=30.0)
    error, sent = answered(calls.call(policy, rpc, request_, 600), *attempts)
    assert isinstance(error, errors.NotReachable)
    assert "no server has answered" in error.message
    assert len(sent) == 2
    assert error.earlier_attempt_lost is may_be_done
    assert ("may have been done" in str(error)) is may_be_done


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(("timeout", "patience"), [(30.0, 60.0), (600.0, 30.0)])
def test_an_error_says_whether_the_timeout_has_ended_the_attempts(
    connected: bool, timeout: float, patience: float
) -> None:
    code = StatusCode.UNAVAILABLE
    busy = errors.Unavailable("later", code=code, reason="SERVER_STOPPING", retry_after=1.0)
    answer = busy if connected else REFUSED
    now = [0.0]
    policy = passing(now, 20.0, patience)
    request = model_service_pb2.ListRequest()
    error, _ = answered(calls.call(policy, rpcs.LIST, request, timeout), *[answer] * 50)
    assert error.timed_out is (connected or timeout < patience)
    if not connected:
        assert isinstance(error, errors.NotReachable)
        assert error.silence >= min(timeout, patience) - 20
        assert error.__cause__ is REFUSED


CLOSED = errors.NotReachable(
    "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:192.0.2.1:1: Socket closed",
    code=StatusCode.UNAVAILABLE,
)
CLOSED.closed_after_handshake = True


def test_a_server_that_closes_each_connection_has_some_seconds_and_not_the_patience() -> None:
    now = [0.0]
    policy = passing(now, 1.0)
    request = model_service_pb2.ListRequest()
    error, sent = answered(
        calls.call(policy, rpcs.LIST, request, 600), *[REFUSED] * 9, *[CLOSED] * 9
    )
    assert isinstance(error, errors.NotReachable)
    assert error.__cause__ is CLOSED
    assert "Socket closed, after the TLS handshake. If the port takes clients" in error.message
    # Nine that say nothing of the server, and those of 3 s.
    assert len(sent) == 9 + 4
    assert not error.earlier_attempt_lost
    now[0] = 0.0
    response = model_service_pb2.ListResponse()
    starting = calls.call(policy, rpcs.LIST, request, 600)
    assert answered(starting, CLOSED, CLOSED, response)[0] is response


SPEAKS_TLS = errors.NotReachable(
    f"{CLOSED.message}; {errors.SPEAKS_TLS}", code=StatusCode.UNAVAILABLE
)


@pytest.mark.parametrize("closed", [CLOSED, SPEAKS_TLS])
@pytest.mark.parametrize(
    ("history", "given_up_at"),
    [
        ({0: "closed", 1: "closed", 2: "closed", 3: "closed"}, 3),
        # It restarts: what it did before says nothing of what it does now.
        ({0: "closed", 1: "refused", 10: "refused", 30: "closed", 32: "closed", 33: "closed"}, 33),
        ({0: "closed", 1: "closed", 2: "lost", 4: "closed", 6: "closed"}, None),
        # This process was stopped for an hour.
        ({0: "closed", 3600: "closed", 3602: "closed", 3603: "closed"}, 3603),
    ],
)
def test_only_connections_that_are_closed_one_after_the_other_end_the_attempts_early(
    history: dict[int, str], given_up_at: int | None, closed: errors.NotReachable
) -> None:
    now = [0.0]
    retry = Policy(lambda: now[0], lambda: 0.0, patience=60.0).begin("List", 10_000)
    outcomes = {"closed": closed, "refused": REFUSED, "lost": LOST}
    for at, outcome in history.items():
        now[0] = at
        retry.begin_attempt()
        if at == given_up_at:
            with pytest.raises(errors.NotReachable):
                retry.pause_after(outcomes[outcome])
        else:
            retry.pause_after(outcomes[outcome])


def test_a_call_in_plaintext_that_ends_early_says_that_the_server_speaks_tls() -> None:
    now = [0.0]
    policy = passing(now, 1.0)
    request = model_service_pb2.ListRequest()
    for timeout, words in ((600, "no TLS was asked for"), (2, "no server has answered for 2 s")):
        listing = calls.call(policy, rpcs.LIST, request, timeout)
        error, _ = answered(listing, *[SPEAKS_TLS] * 9)
        assert isinstance(error, errors.NotReachable)
        assert words in error.message
        assert "the server speaks TLS. use tls=True" in error.message


def test_a_deletion_that_was_not_sent_is_repeated_as_it_is() -> None:
    request = DeleteRequest(name="iris")
    _, sent = answered(calls.call(POLICY, rpcs.DELETE, request, 60), REFUSED, DeleteResponse())
    assert [attempt.allow_missing for attempt in sent] == [False, False]


def test_a_request_is_not_changed_and_its_request_id_is_kept() -> None:
    request = model_service_pb2.DeployRequest(
        name="iris", request_id="mine", labels={"team": "a"}, spec={"env": {"A": "1"}}
    )
    before = request.SerializeToString(deterministic=True)
    spec = InferenceServiceSpec(env={"B": "2"})
    made = calls.deploy_request(request, {"namespace": "ns", "spec": spec}, lambda: "new")
    assert (made.name, made.namespace, made.request_id) == ("iris", "ns", "mine")
    assert dict(made.labels) == {"team": "a"}
    assert made.spec == spec
    assert request.SerializeToString(deterministic=True) == before


def test_the_time_in_which_the_client_itself_was_stopped_is_no_silence_of_servers() -> None:
    events = [("deploy", "a"), ("ready", "a")]
    world = World(history(events), ["advance", "ok", "ok", "stopped", "cut", "cut"])
    world.now, world._replicas = 1, [1, 1]
    request = WatchStatusRequest(namespace="ns", name="a", rollout_id="1/1")
    policy = world.policy(lambda: 0.5, 60.0)
    service = world.run(watching.wait_ready(policy, request, 3600))
    assert service.status.message == "at 2"
    assert world.time > 300


def test_an_error_without_a_server_says_what_was_tried_how_often_and_what_to_do() -> None:
    now = [0.0]
    policy = passing(now, 20.0, patience=30.0, target="iris.example:1")
    listing = model_service_pb2.ListRequest()
    error, _ = answered(calls.call(policy, rpcs.LIST, listing, None), *[REFUSED] * 3)
    assert error.message == (
        "List to iris.example:1: no server has answered for 40 s, in 3 attempts; the last one:"
        " Connection refused. Check the address, and that a server runs there"
    )


def test_the_read_at_the_end_of_a_wait_has_what_is_left_of_its_time() -> None:
    now = [0.0]
    policy = Policy(lambda: now[0], lambda: 0.0)
    request = WatchStatusRequest(namespace="ns", name="a", rollout_id="1/1")
    routine = watching.wait_ready(policy, request, 60.0)
    step = next(routine)
    while not isinstance(step, Send):
        now[0] += 50.0 if isinstance(step, Receive) else 0.0
        step = routine.send(None)
    assert step.timeout == 10.0
    now[0] += 10.0
    with pytest.raises(errors.Timeout, match="not decided in 10 s"):
        routine.throw(LOST)


def test_a_service_that_a_new_beginning_lacks_is_looked_for_within_the_time_of_the_watch() -> None:
    now = [0.0]
    request = WatchStatusRequest(namespace="ns")
    routine = watching.watch(Policy(lambda: now[0], lambda: 0.0), request, 60.0)
    synced = message(Message.TYPE_SYNCED, token="t")
    came = iter(
        [
            message(Message.TYPE_SNAPSHOT, name="a", uid="1", generation=1),
            synced,
            LOST,
            message(Message.TYPE_RESET),
            synced,
        ]
    )
    step = next(routine)
    while not isinstance(step, Send):
        answer = next(came) if isinstance(step, Receive) else None
        now[0] += 11.0 if answer else 0.0
        step = routine.throw(answer) if answer is LOST else routine.send(answer)
    assert step.timeout == 5.0


def watched(request: WatchStatusRequest, *script: Any) -> tuple[list[Any], list[Any]]:
    """The requests and the shown messages of a watch that receives this: messages, or errors."""
    routine = watching.watch(Policy(lambda: 0.0, lambda: 0.0), request, None)
    opened: list[WatchStatusRequest] = []
    shown: list[Message] = []
    left = list(script)
    step = next(routine)
    while left or not isinstance(step, Receive):
        if isinstance(step, Open):
            opened.append(WatchStatusRequest.FromString(step.request.SerializeToString()))
        if isinstance(step, Emit):
            shown.append(step.message)
        answer = left.pop(0) if isinstance(step, Receive | Send) else None
        failed = isinstance(answer, Exception)
        step = routine.throw(answer) if failed else routine.send(answer)
    routine.close()
    return opened, shown


def message(kind: Message.Type.ValueType, token: str = "", **service: Any) -> Message:
    sent = InferenceService(namespace="ns", **service) if service else None
    return Message(type=kind, service=sent, resume_token=token)


def test_a_token_that_another_release_made_is_dropped_and_nothing_is_shown_twice() -> None:
    invalid = errors.InvalidRequest("damaged", reason="RESUME_TOKEN_INVALID")
    snapshot = message(Message.TYPE_SNAPSHOT, name="a", uid="1", generation=1)
    synced = message(Message.TYPE_SYNCED, token="t")
    opened, shown = watched(
        WatchStatusRequest(namespace="ns"), snapshot, synced, LOST, invalid, snapshot, synced
    )
    assert [request.resume_token for request in opened] == ["", "t", ""]
    assert [shown_message.type for shown_message in shown] == [
        Message.TYPE_SNAPSHOT,
        Message.TYPE_SYNCED,
    ]


def test_a_replica_that_is_behind_does_not_make_a_service_leave_a_selection() -> None:
    request = WatchStatusRequest(namespace="ns", label_selector="team=a")
    now = message(Message.TYPE_SNAPSHOT, name="a", uid="1", generation=2)
    before = message(Message.TYPE_SNAPSHOT, token="t", name="a", uid="1", generation=1)
    synced, reset = message(Message.TYPE_SYNCED, token="t"), message(Message.TYPE_RESET, token="t")
    _, shown = watched(request, now, synced, LOST, reset, before, synced)
    assert [shown_message.type for shown_message in shown] == [
        Message.TYPE_SNAPSHOT,
        Message.TYPE_SYNCED,
    ]


DENIED = errors.PermissionDenied("no right to get", code=StatusCode.PERMISSION_DENIED)
EXPIRED = errors.Unauthenticated("the token has expired", code=StatusCode.UNAUTHENTICATED)


def test_a_service_that_the_caller_may_not_get_has_left_a_watch_that_began_anew() -> None:
    snapshot = message(Message.TYPE_SNAPSHOT, name="a", uid="1", generation=1)
    synced, reset = message(Message.TYPE_SYNCED, token="t"), message(Message.TYPE_RESET, token="t")
    changed = message(Message.TYPE_CHANGED, token="t", name="a", uid="1", generation=1)
    script = [snapshot, synced, LOST, reset, synced, DENIED, changed]
    _, shown = watched(WatchStatusRequest(namespace="ns"), *script)
    assert [Message.Type.Name(shown_message.type) for shown_message in shown] == [
        "TYPE_SNAPSHOT",
        "TYPE_SYNCED",
        "TYPE_LEFT",
        "TYPE_CHANGED",
    ]


def awaited(**fields: Any) -> WatchStatusRequest:
    return WatchStatusRequest(namespace="ns", name="a", rollout_id="1/1", **fields)


def a_watch() -> Any:
    request = awaited(until=WatchStatusRequest.UNTIL_READY)
    return watching.watch(POLICY, request, None)


def a_wait_for_ready() -> Any:
    return watching.wait_ready(POLICY, awaited(), 600.0)


def a_wait_for_the_end() -> Any:
    return watching.wait_gone(POLICY, awaited(), 600.0)


def a_deploy_and_wait() -> Any:
    return watching.deploy_and_wait(POLICY, WRITE, 600.0)


def played(routine: Any, *script: Any) -> tuple[list[str], errors.ModelServiceError | None]:
    """The steps of a watch that receives this, without those that receive or show, and its error.
    A Deploy is answered."""
    deployed = model_service_pb2.DeployResponse(rollout_id="1/1")
    deployed.service.namespace, deployed.service.name = "ns", "a"
    left, steps = list(script), []
    try:
        step = next(routine)
        while True:
            if not isinstance(step, Receive | Emit):
                steps.append(type(step).__name__)
            if isinstance(step, Send) and step.rpc is rpcs.DEPLOY:
                steps.pop()
                step = routine.send(deployed)
                continue
            answer = left.pop(0) if isinstance(step, Receive | Send) else None
            failed = isinstance(answer, Exception)
            step = routine.throw(answer) if failed else routine.send(answer)
    except StopIteration:
        assert not left
        return steps, None
    except errors.ModelServiceError as error:
        assert not left
        return steps, error


WATCHES = [a_watch, a_wait_for_ready, a_wait_for_the_end, a_deploy_and_wait]
SNAPSHOT = message(Message.TYPE_SNAPSHOT, name="a", uid="1", generation=1, rollout_id="1/1")
SYNCED = message(Message.TYPE_SYNCED, token="t")
HEARTBEAT = message(Message.TYPE_HEARTBEAT, token="t")


@pytest.mark.parametrize("begin", WATCHES)
def test_a_stream_whose_token_has_expired_is_opened_again_at_once(begin: Any) -> None:
    script = [SNAPSHOT, SYNCED, EXPIRED, SYNCED, EXPIRED, HEARTBEAT, None]
    assert played(begin(), *script) == (["Open", "Close", "Open", "Close", "Open"], None)


@pytest.mark.parametrize("begin", WATCHES)
def test_a_token_with_which_no_stream_was_served_ends_the_watch(begin: Any) -> None:
    steps, error = played(begin(), EXPIRED)
    assert (steps, error) == (["Open", "Close"], EXPIRED)
    steps, error = played(begin(), SNAPSHOT, SYNCED, EXPIRED, EXPIRED)
    assert (steps, error) == (["Open", "Close", "Open", "Close"], EXPIRED)


def test_a_token_with_which_a_service_cannot_be_looked_for_ends_the_watch() -> None:
    reset = message(Message.TYPE_RESET, token="t")
    steps, error = played(a_watch(), SNAPSHOT, SYNCED, LOST, reset, SYNCED, EXPIRED)
    assert (steps, error) == (["Open", "Close", "Pause", "Open", "Send", "Close"], EXPIRED)


@pytest.mark.parametrize(("timeout", "token_timeout"), [(None, 30.0), (600.0, 30.0), (2.0, 2.0)])
def test_the_token_of_a_watch_has_the_time_of_an_attempt(
    timeout: float | None, token_timeout: float
) -> None:
    opening = next(watching.watch(POLICY, WatchStatusRequest(), timeout))
    assert isinstance(opening, Open)
    assert (opening.timeout, opening.token_timeout) == (timeout, token_timeout)


def test_a_token_that_expires_at_the_end_of_the_time_is_a_timeout() -> None:
    now = [0.0]
    routine = watching.wait_ready(Policy(lambda: now[0], lambda: 0.0), awaited(), 60.0)
    assert isinstance(next(routine), Open)
    assert isinstance(routine.send(None), Receive)
    assert isinstance(routine.send(HEARTBEAT), Receive)
    now[0] = 60.0
    step = routine.throw(EXPIRED)
    assert isinstance(step, Close)
    step = routine.send(None)
    assert isinstance(step, Open)
    assert step.timeout == 0.0
    step = routine.throw(error_of(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ()))
    with pytest.raises(errors.Timeout, match="not decided in 60 s"):
        routine.send(None)


def test_the_table_has_every_rpc() -> None:
    listed = {value.path: value for value in vars(rpcs).values() if isinstance(value, rpcs.Rpc)}
    described = {
        f"/{service.full_name}/{method.name}": method
        for module in (model_service_pb2, registry_service_pb2, rollout_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert listed.keys() == described.keys()
    for path, rpc in listed.items():
        assert rpc.request.DESCRIPTOR is described[path].input_type
        assert rpc.response.DESCRIPTOR is described[path].output_type
        assert rpc.repeatable is not rpc.method.startswith(("Create", "Update"))


@pytest.mark.parametrize(("threads", "loop"), [(Client, AsyncClient), (Watch, AsyncWatch)])
def test_both_clients_have_the_same_methods_and_arguments(threads: type, loop: type) -> None:
    def methods(kind: type) -> dict[str, list[Any]]:
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert methods(threads) == methods(loop)
