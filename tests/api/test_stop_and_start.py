"""Stop and Start."""

from __future__ import annotations

import pytest
from grpc import StatusCode as Code
from modelservice.v1.inference_service_pb2 import InferenceServiceStatus
from modelservice.v1.model_service_pb2 import DeleteRequest, DeployResponse
from modelservice.v1.rollout_service_pb2 import StartRequest, StopRequest

from server.domain.service.commands import STOP_ANNOTATION
from server.domain.service.inference_service import ContainerPredictor
from server.domain.service.inference_service import InferenceServiceSpec as Spec
from tests.refusals import refused

from .requests import READY, deploy, eventually, get, key

UPDATED = DeployResponse.ACTION_UPDATED
UNCHANGED = DeployResponse.ACTION_UNCHANGED
STOPPED = InferenceServiceStatus.STATE_STOPPED
BOTH = pytest.mark.parametrize(
    ("method", "request_of"), [("Stop", StopRequest), ("Start", StartRequest)]
)


def test_a_service_is_stopped_and_started_with_all_else_as_it_was(stub, rollouts, name) -> None:
    first = stub.Deploy(deploy(name, labels={"team": "vision"}, annotations={"note": "7"}))
    stopped = rollouts.Stop(StopRequest(name=name))
    assert stopped.action == UPDATED
    assert stopped.rollout_id == stopped.service.rollout_id != first.rollout_id
    assert stopped.service.annotations == {"note": "7", STOP_ANNOTATION: "true"}
    eventually("it is stopped", lambda: get(stub, name).status.state == STOPPED)
    started = rollouts.Start(StartRequest(name=name))
    assert started.action == UPDATED
    assert started.rollout_id not in (first.rollout_id, stopped.rollout_id)
    assert started.service.annotations == {"note": "7", STOP_ANNOTATION: "false"}
    for answer in (stopped, started):
        assert answer.service.spec == first.service.spec
        assert answer.service.labels == first.service.labels
        assert answer.HasField("view_age")
    eventually("it is ready", lambda: get(stub, name).status.state == READY)


def test_stopping_a_stopped_service_and_starting_a_running_one_change_nothing(
    stub, rollouts, name
) -> None:
    first = stub.Deploy(deploy(name))
    started = rollouts.Start(StartRequest(name=name))
    assert (started.action, started.rollout_id) == (UNCHANGED, first.rollout_id)
    assert started.service.annotations == {}
    stopped = rollouts.Stop(StopRequest(name=name))
    again = rollouts.Stop(StopRequest(name=name))
    assert (again.action, again.rollout_id) == (UNCHANGED, stopped.rollout_id)


def test_a_service_that_a_deploy_stopped_is_started(stub, rollouts, name) -> None:
    stub.Deploy(deploy(name, annotations={STOP_ANNOTATION: "True"}))
    assert rollouts.Stop(StopRequest(name=name)).action == UNCHANGED
    assert rollouts.Start(StartRequest(name=name)).action == UPDATED


def test_no_deploy_starts_what_stop_has_stopped(stub, rollouts, name) -> None:
    stub.Deploy(deploy(name))
    rollouts.Stop(StopRequest(name=name))
    later = stub.Deploy(deploy(name, "example.org/model:2")).service
    assert later.annotations == {STOP_ANNOTATION: "true"}


def test_a_retry_with_the_same_request_id_returns_the_first_rollout(stub, rollouts, name) -> None:
    stub.Deploy(deploy(name))
    request = StopRequest(name=name, request_id="job-1")
    first = rollouts.Stop(request)
    rollouts.Start(StartRequest(name=name, request_id="job-2"))
    again = rollouts.Stop(request)
    assert (again.action, again.rollout_id) == (UPDATED, first.rollout_id)
    assert again.service.annotations == {STOP_ANNOTATION: "false"}


@pytest.mark.parametrize("request_id", ["job-1", "job-2"])
def test_a_request_id_of_another_write_is_refused(stub, rollouts, name, request_id) -> None:
    stub.Deploy(deploy(name, request_id="job-1"))
    rollouts.Stop(StopRequest(name=name, request_id="job-2"))
    refused(
        Code.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
        rollouts.Start,
        StartRequest(name=name, request_id=request_id),
    )


def test_a_dry_run_says_what_would_happen_and_writes_nothing(stub, rollouts, name) -> None:
    first = stub.Deploy(deploy(name))
    dry = rollouts.Stop(StopRequest(name=name, validate_only=True))
    assert (dry.action, dry.rollout_id, dry.service.rollout_id) == (UPDATED, "", "")
    assert dry.service.annotations == {STOP_ANNOTATION: "true"}
    assert get(stub, name).rollout_id == first.rollout_id


@BOTH
def test_only_the_newest_rollout_is_acted_on(stub, rollouts, name, method, request_of) -> None:
    first = stub.Deploy(deploy(name))
    newest = stub.Deploy(deploy(name, "example.org/model:2", annotations={STOP_ANNOTATION: "true"}))
    act = getattr(rollouts, method)
    refused(
        Code.ABORTED, "ROLLOUT_SUPERSEDED", act, request_of(name=name, rollout_id=first.rollout_id)
    )
    assert get(stub, name).rollout_id == newest.rollout_id
    done = act(request_of(name=name, rollout_id=newest.rollout_id, etag=newest.service.etag))
    assert done.action == (UPDATED if method == "Start" else UNCHANGED)


@BOTH
def test_a_service_that_was_created_again_is_not_acted_on(
    stub, memory, rollouts, name, method, request_of
) -> None:
    first = stub.Deploy(deploy(name))
    stub.Delete(DeleteRequest(name=name))
    refused(
        Code.FAILED_PRECONDITION,
        "SERVICE_DELETING",
        getattr(rollouts, method),
        request_of(name=name),
    )
    memory.finish_delete(key(name))
    refused(Code.NOT_FOUND, "SERVICE_NOT_FOUND", getattr(rollouts, method), request_of(name=name))
    stub.Deploy(deploy(name))
    refused(
        Code.NOT_FOUND,
        "ROLLOUT_GONE",
        getattr(rollouts, method),
        request_of(name=name, rollout_id=first.rollout_id),
    )


def test_a_stale_etag_is_refused(stub, rollouts, name) -> None:
    stale = stub.Deploy(deploy(name)).service.etag
    fresh = stub.Deploy(deploy(name, "example.org/model:2")).service.etag
    refused(Code.ABORTED, "ETAG_MISMATCH", rollouts.Stop, StopRequest(name=name, etag=stale))
    assert rollouts.Stop(StopRequest(name=name, etag=fresh)).action == UPDATED


def test_a_service_of_another_client_is_stopped_by_force_only(stub, memory, rollouts, name) -> None:
    memory.put_unmanaged(key(name), Spec(ContainerPredictor("example.org/theirs:1")))
    refused(Code.FAILED_PRECONDITION, "NOT_MANAGED", rollouts.Stop, StopRequest(name=name))
    stopped = rollouts.Stop(StopRequest(name=name, force=True))
    assert stopped.action == UPDATED
    assert not stopped.service.unmanaged
    assert stopped.service.spec.container.image == "example.org/theirs:1"


def test_an_invalid_rollout_id_is_refused(stub, rollouts, name) -> None:
    stub.Deploy(deploy(name))
    refused(
        Code.INVALID_ARGUMENT,
        "FIELD_INVALID",
        rollouts.Stop,
        StopRequest(name=name, rollout_id="what"),
    )


def test_a_registered_model_stays_the_one_that_was_deployed(stub, rollouts, project) -> None:
    project.model()
    project.version()
    project.environment()
    first = stub.Deploy(project.deploy()).service
    assert first.deployment_id
    stopped = rollouts.Stop(StopRequest(namespace=first.namespace, name=first.name)).service
    started = rollouts.Start(StartRequest(namespace=first.namespace, name=first.name)).service
    for service in (stopped, started):
        assert service.spec == first.spec
        assert service.deployment_id == first.deployment_id
