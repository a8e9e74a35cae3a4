"""Delete."""

from __future__ import annotations

from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import InferenceServiceStatus
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    GetRequest,
    ListRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)

from server.domain.service.inference_service import ContainerPredictor, InferenceServiceSpec
from tests.refusals import refused

from .requests import deploy, eventually, get, key, kinds, watching

DELETING = InferenceServiceStatus.STATE_DELETING


def test_a_deleted_service_is_deleting_until_it_is_gone(stub, memory, name) -> None:
    stub.Deploy(deploy(name))
    answer = stub.Delete(DeleteRequest(name=name))
    assert answer.service.status.state == DELETING
    assert answer.service.HasField("delete_time")
    assert get(stub, name).status.state == DELETING
    assert stub.Delete(DeleteRequest(name=name)).service.status.state == DELETING
    memory.finish_delete(key(name))
    eventually("gone", lambda: not _listed(stub, name))
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Get, GetRequest(name=name))


def test_the_last_rollouts_name_stays_until_the_last_message(stub, memory, name) -> None:
    deployed = stub.Deploy(deploy(name)).rollout_id
    with watching(stub, name=name, until=WatchStatusRequest.UNTIL_GONE) as stream:
        stream.until(lambda message: message.type == WatchStatusResponse.TYPE_SYNCED)
        answer = stub.Delete(DeleteRequest(name=name))
        deleting = stream.until(lambda message: message.service.status.state == DELETING)
        seen = get(stub, name)
        memory.finish_delete(key(name))
        messages, error = stream.rest()
    assert error is None
    assert kinds(messages)[-1] == "DELETED"
    services = [answer.service, seen, deleting.service, *(m.service for m in messages)]
    assert {service.rollout_id for service in services} == {deployed}


def test_deleting_what_is_absent_is_not_found_unless_it_may_be_missing(stub, name) -> None:
    refused(StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", stub.Delete, DeleteRequest(name=name))
    answer = stub.Delete(DeleteRequest(name=name, allow_missing=True))
    assert not answer.HasField("service")
    assert answer.HasField("view_age")


def test_a_stale_etag_deletes_nothing(stub, name) -> None:
    stale = stub.Deploy(deploy(name)).service.etag
    fresh = stub.Deploy(deploy(name, "example.org/model:2")).service.etag
    request = DeleteRequest(name=name, etag=stale)
    refused(StatusCode.ABORTED, "ETAG_MISMATCH", stub.Delete, request)
    assert stub.Delete(DeleteRequest(name=name, etag=fresh)).service.status.state == DELETING


def test_somebody_elses_service_is_deleted_by_force_only(stub, memory, name) -> None:
    memory.put_unmanaged(key(name), InferenceServiceSpec(ContainerPredictor("theirs")))
    request = DeleteRequest(name=name)
    refused(StatusCode.FAILED_PRECONDITION, "NOT_MANAGED", stub.Delete, request)
    answer = stub.Delete(DeleteRequest(name=name, force=True))
    assert answer.service.status.state == DELETING


def test_validate_only_deletes_nothing(stub, name) -> None:
    stub.Deploy(deploy(name))
    answer = stub.Delete(DeleteRequest(name=name, validate_only=True))
    assert answer.service.name == name
    assert get(stub, name).status.state != DELETING


def test_a_cluster_that_is_away_is_unavailable(stub, memory, name) -> None:
    stub.Deploy(deploy(name))
    memory.away()
    request = DeleteRequest(name=name)
    refused(StatusCode.UNAVAILABLE, "CLUSTER_UNAVAILABLE", stub.Delete, request)


def test_what_names_nothing_is_refused(stub) -> None:
    for request, path in (
        (DeleteRequest(), "name"),
        (DeleteRequest(name="x", namespace="-"), "namespace"),
    ):
        refusal = refused(StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", stub.Delete, request)
        assert refusal.fields == [path]


def _listed(stub, name: str) -> bool:
    return any(s.name == name for s in stub.List(ListRequest(page_size=1000)).services)
