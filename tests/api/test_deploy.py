"""Deploy."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from hypothesis import given
from modelservice.v1.inference_service_pb2 import (
    InferenceServiceSpec,
    InferenceServiceStatus,
    RolloutStrategy,
)
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    DeployRequest,
    DeployResponse,
    GetRequest,
)

from server.api.specs import spec_message, spec_of
from server.domain.errors import WriteOutcomeUnknown
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import ContainerPredictor
from server.domain.service.inference_service import InferenceServiceSpec as Spec
from tests.refusals import refused
from tests.strategies import specs

from .requests import NAMESPACE, READY, container, deploy, get, key

CREATED = DeployResponse.ACTION_CREATED
UPDATED = DeployResponse.ACTION_UPDATED
UNCHANGED = DeployResponse.ACTION_UNCHANGED
RESTARTED = DeployResponse.ACTION_RESTARTED


def test_a_new_service_is_created_with_a_rollout_to_wait_for(stub, memory, name) -> None:
    memory.target.ready_after = None
    answer = stub.Deploy(deploy(name, labels={"team": "vision"}))
    assert answer.action == CREATED
    assert answer.rollout_id == answer.service.rollout_id != ""
    assert (answer.service.namespace, answer.service.name) == (NAMESPACE, name)
    assert answer.service.status.state == InferenceServiceStatus.STATE_PENDING
    assert answer.service.labels == {"team": "vision"}
    assert answer.HasField("view_age")


def test_an_empty_namespace_is_the_servers_default(stub, name) -> None:
    stub.Deploy(deploy(name))
    assert stub.Get(GetRequest(namespace=NAMESPACE, name=name)).service.namespace == NAMESPACE


def test_the_same_deploy_again_is_unchanged_and_names_the_same_rollout(stub, name) -> None:
    first = stub.Deploy(deploy(name))
    again = stub.Deploy(deploy(name))
    assert (again.action, again.rollout_id) == (UNCHANGED, first.rollout_id)


def test_another_spec_is_a_new_rollout_that_is_never_ready_from_the_older_one(
    stub, memory, name
) -> None:
    first = stub.Deploy(deploy(name))
    memory.target.ready_after = None
    second = stub.Deploy(deploy(name, "example.org/model:2"))
    assert second.action == UPDATED
    assert second.rollout_id != first.rollout_id
    assert second.service.status.state != READY
    assert get(stub, name).status.state != READY


def test_the_labels_of_a_deploy_replace_the_earlier_ones(stub, name) -> None:
    stub.Deploy(deploy(name, labels={"a": "1"}, annotations={"x": "1"}))
    answer = stub.Deploy(deploy(name, labels={"b": "2"}))
    assert answer.service.labels == {"b": "2"}
    assert answer.service.annotations == {}


def test_a_restart_alone_keeps_spec_labels_and_annotations(stub, name) -> None:
    first = stub.Deploy(deploy(name, labels={"team": "vision"}, annotations={"note": "n"}))
    answer = stub.Deploy(DeployRequest(name=name, restart=True))
    assert answer.action == RESTARTED
    assert answer.rollout_id != first.rollout_id
    assert answer.service.spec == first.service.spec
    assert answer.service.labels == {"team": "vision"}
    assert answer.service.annotations == {"note": "n"}


def test_a_restart_alone_of_an_absent_service_is_not_found(stub, name) -> None:
    request = DeployRequest(name=name, restart=True)
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Deploy, request)


def test_the_retry_of_a_request_id_answers_the_first_write(stub, name) -> None:
    first = stub.Deploy(deploy(name, request_id="job-1"))
    later = stub.Deploy(deploy(name, "example.org/model:2", request_id="job-2"))
    retry = stub.Deploy(deploy(name, request_id="job-1"))
    assert (retry.action, retry.rollout_id) == (CREATED, first.rollout_id)
    assert retry.service.rollout_id == later.rollout_id


def test_a_request_id_is_not_taken_for_another_body(stub, name) -> None:
    stub.Deploy(deploy(name, request_id="job-1"))
    other = deploy(name, "example.org/model:2", request_id="job-1")
    refused(StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED", stub.Deploy, other)


def test_an_etag_guards_against_overwriting(stub, name) -> None:
    first = stub.Deploy(deploy(name)).service
    stub.Deploy(deploy(name, "example.org/model:2", etag=first.etag))
    stale = deploy(name, "example.org/model:3", etag=first.etag)
    refused(StatusCode.ABORTED, "ETAG_MISMATCH", stub.Deploy, stale)
    assert get(stub, name).spec == container("example.org/model:2")


def test_an_etag_of_an_absent_service_is_not_found(stub, name) -> None:
    request = deploy(name, etag="0123456789abcdef")
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Deploy, request)


def test_create_only_refuses_an_existing_service(stub, name) -> None:
    stub.Deploy(deploy(name, create_only=True))
    request = deploy(name, "example.org/model:2", create_only=True)
    refused(StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", stub.Deploy, request)


def test_validate_only_returns_the_result_and_stores_nothing(stub, name) -> None:
    answer = stub.Deploy(deploy(name, validate_only=True))
    assert not answer.service.rollout_id
    assert (answer.action, answer.rollout_id) == (CREATED, "")
    assert answer.service.spec == container()
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Get, GetRequest(name=name))


def test_somebody_elses_service_needs_force(stub, memory, name) -> None:
    memory.put_unmanaged(key(name), Spec(ContainerPredictor("theirs")))
    assert get(stub, name).unmanaged
    refused(StatusCode.FAILED_PRECONDITION, "NOT_MANAGED", stub.Deploy, deploy(name))
    answer = stub.Deploy(deploy(name, force=True))
    assert answer.action == UPDATED
    assert not answer.service.unmanaged


def test_nothing_is_deployed_onto_a_service_that_is_being_deleted(stub, name) -> None:
    stub.Deploy(deploy(name))
    stub.Delete(DeleteRequest(name=name))
    refused(StatusCode.FAILED_PRECONDITION, "SERVICE_DELETING", stub.Deploy, deploy(name))


def test_a_namespace_that_does_not_exist_is_learnt_from_the_cluster(stub, memory, name) -> None:
    memory.target.store.missing_namespaces.add("nowhere")
    request = deploy(name, namespace="nowhere")
    refusal = refused(StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND", stub.Deploy, request)
    assert refusal.metadata["namespace"] == "nowhere"


def test_every_wrong_field_is_named_at_once_by_its_path(stub, memory, name) -> None:
    memory.away()
    request = deploy("Not-A-Name", request_id="no spaces", labels={"a.modelservice.dev/x": "y"})
    request.spec.env["1A"] = "x"
    request.spec.resources.limits["memory"] = "lots"
    refusal = refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.Deploy, request)
    assert set(refusal.fields) == {
        "name",
        "request_id",
        'labels["a.modelservice.dev/x"]',
        'spec.env["1A"]',
        'spec.resources.limits["memory"]',
    }


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (None, "spec"),
        (InferenceServiceSpec(), "spec.predictor"),
        (container(request_timeout=Duration(nanos=2 * 10**9)), "spec.request_timeout"),
        (container(request_timeout=Duration(seconds=1, nanos=-1)), "spec.request_timeout"),
        (container(request_timeout=Duration(seconds=2**62)), "spec.request_timeout"),
        (container(request_timeout=Duration(seconds=1, nanos=1)), "spec.request_timeout"),
        (container(request_timeout=Duration()), "spec.request_timeout"),
        (container(ready_timeout=Duration()), "spec.ready_timeout"),
        (container(ready_timeout=Duration(seconds=1, nanos=-1)), "spec.ready_timeout"),
        (container(rollout_strategy={}), "spec.rollout_strategy.type"),
        (container(rollout_strategy={"max_surge": "1"}), "spec.rollout_strategy.type"),
        (container(rollout_strategy=RolloutStrategy(type=7)), "spec.rollout_strategy.type"),  # type: ignore[arg-type]
    ],
)
def test_an_unusable_spec_is_refused_by_its_path(stub, name, spec, path) -> None:
    request = DeployRequest(name=name, spec=spec)
    refusal = refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.Deploy, request)
    assert refusal.fields == [path]


def test_a_duration_beyond_every_limit_is_refused_with_the_limit_and_its_value(stub, name) -> None:
    spec = container(ready_timeout=Duration(seconds=2**62))
    refusal = refused(
        StatusCode.INVALID_ARGUMENT,
        "FIELD_INVALID",
        stub.Deploy,
        DeployRequest(name=name, spec=spec),
    )
    assert f"must be at most 315576000000 s long, got {2**62} s" in refusal.message


def test_a_cluster_that_is_away_is_unavailable_with_a_time_to_wait(stub, memory, name) -> None:
    memory.away()
    refusal = refused(StatusCode.UNAVAILABLE, "CLUSTER_UNAVAILABLE", stub.Deploy, deploy(name))
    assert refusal.retry_after > timedelta(0)
    memory.back()
    assert stub.Deploy(deploy(name)).action == CREATED


def test_a_write_of_unknown_outcome_can_be_retried(stub, memory, name) -> None:
    memory.fail_next_write(WriteOutcomeUnknown("sent and not answered; retry"))
    request = deploy(name, request_id="job-1")
    refusal = refused(StatusCode.UNAVAILABLE, "WRITE_OUTCOME_UNKNOWN", stub.Deploy, request)
    assert refusal.retry_after > timedelta(0)
    assert stub.Deploy(request).action == CREATED


@pytest.mark.parametrize(("deadline", "most"), [(None, 30), (100, 30), (20, 19.8)])
def test_the_cluster_has_the_callers_time_less_what_our_answer_needs(
    stub, grpc_server, monkeypatch, name, deadline, most
) -> None:
    seconds: list[float] = []
    apply = grpc_server.memory.apply

    async def recorded(deploy: Deploy) -> Any:
        # With those that have passed on the way.
        seconds.extend((deploy.deadline.left(), time.monotonic() - began))
        return await apply(deploy)

    monkeypatch.setattr(grpc_server.memory, "apply", recorded)
    began = time.monotonic()
    stub.Deploy(deploy(name), timeout=deadline)
    left, passed = seconds
    assert most - 1 - passed <= left <= most


@given(spec=specs())
def test_a_spec_survives_the_way_through_the_contract(spec: Spec) -> None:
    assert spec_of(InferenceServiceSpec.FromString(spec_message(spec).SerializeToString())) == spec


def test_what_get_answers_given_back_to_deploy_is_unchanged(stub, name) -> None:
    spec = container(
        env={"B": "2", "A": "$(B)"},
        resources={"requests": {"cpu": "0.5"}, "limits": {"memory": "2048Mi"}},
        scaling={"min_replicas": 0, "max_replicas": 3, "target": 70, "metric": "cpu"},
        tolerations=[
            {"key": "gpu", "operator": "Exists", "toleration_seconds": 0, "effect": "NoExecute"}
        ],
        request_timeout=Duration(seconds=90),
    )
    stub.Deploy(DeployRequest(name=name, spec=spec, labels={"a": "b"}))
    service = get(stub, name)
    assert service.spec.resources.requests == {"cpu": "500m"}
    again = DeployRequest(name=name, spec=service.spec, labels=service.labels)
    assert stub.Deploy(again).action == UNCHANGED
