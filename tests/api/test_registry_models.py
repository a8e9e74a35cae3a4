"""Registered models through a stub."""

from __future__ import annotations

import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.registry_pb2 import RegisteredModel

from tests.refusals import refused

from .registry_project import ARCHIVED, PENDING, READY, Project

INVALID, ABORTED = StatusCode.INVALID_ARGUMENT, StatusCode.ABORTED
NOT_FOUND, REFUSED = StatusCode.NOT_FOUND, StatusCode.FAILED_PRECONDITION


def test_a_model_is_answered_and_read_as_it_was_given(project) -> None:
    before = time.time()
    model = project.model(description="finds fraud", labels={"team": "risk", "example.com/x": ""})
    assert (model.project, model.name) == (project.name, "fraud")
    assert model.description == "finds fraud"
    assert model.labels == {"team": "risk", "example.com/x": ""}
    assert model.id
    assert model.etag
    assert before - 1 <= model.create_time.ToMicroseconds() / 1e6 <= time.time() + 1
    assert model.update_time == model.create_time
    assert project.get_model() == model


def test_what_is_output_only_is_ignored_in_a_create(project) -> None:
    long_ago = Timestamp(seconds=1)
    model = project.model(id="mine", etag="mine", create_time=long_ago, update_time=long_ago)
    assert "mine" not in (model.id, model.etag)
    assert model.create_time.seconds > 1
    assert model.update_time.seconds > 1


def test_a_name_is_taken_once_in_a_project(project, registry_stub) -> None:
    first = project.model()
    request = pb.CreateRegisteredModelRequest(model=first)
    refused(
        StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", registry_stub.CreateRegisteredModel, request
    )
    other = Project(registry_stub, f"{project.name}-other")
    assert other.model().id != first.id


def test_everything_wrong_is_reported_with_its_path(project, registry_stub) -> None:
    model = RegisteredModel(
        project="two\nlines",
        name="Fraud",
        default_version="1",
        labels={"no good!": "x", "good": "no good!"},
        description="x" * (16 * 1024 + 1),
    )
    request = pb.CreateRegisteredModelRequest(model=model)
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.CreateRegisteredModel, request)
    assert set(refusal.fields) == {
        "model.project",
        "model.name",
        "model.default_version",
        "model.description",
        'model.labels["no good!"]',
        'model.labels["good"]',
    }


def test_a_model_that_is_not_given_is_refused(registry_stub) -> None:
    request = pb.CreateRegisteredModelRequest()
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.CreateRegisteredModel, request)
    assert set(refusal.fields) == {"model.project", "model.name"}


def test_without_a_mask_an_update_takes_what_is_set(project) -> None:
    before = project.model(description="one", labels={"a": "1", "b": "2"})
    after = project.update_model(labels={"c": "3"})
    assert (after.description, after.labels) == ("one", {"c": "3"})
    assert after.etag != before.etag
    assert after.update_time.ToNanoseconds() >= before.update_time.ToNanoseconds()
    assert after.create_time == before.create_time
    assert project.get_model() == after


def test_a_mask_replaces_the_fields_it_names_and_can_empty_them(project) -> None:
    project.model(description="one", labels={"a": "1"})
    after = project.update_model("description", labels={"ignored": ""})
    assert (after.description, after.labels) == ("", {"a": "1"})
    after = project.update_model("*", description="two")
    assert (after.description, after.labels) == ("two", {})


@pytest.mark.parametrize("path", ["name", "id", "etag", "create_time", "labels.a", "nothing", ""])
def test_a_mask_that_names_what_cannot_change_is_refused(project, registry_stub, path) -> None:
    project.model()
    request = project.model_update(path)
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.UpdateRegisteredModel, request)
    assert refusal.fields == ["update_mask"]
    assert repr(path) in refusal.message


def test_what_a_get_answers_can_be_given_back_and_changes_nothing(project, registry_stub) -> None:
    model = project.model(description="one", labels={"a": "1"})
    answer = registry_stub.UpdateRegisteredModel(pb.UpdateRegisteredModelRequest(model=model))
    assert answer.model == model


def test_the_default_is_a_version_that_is_ready(project, registry_stub) -> None:
    project.model()
    for name, state in (("1", READY), ("2", PENDING), ("3", ARCHIVED)):
        project.version(name, state=state)
    assert project.update_model(default_version="1").default_version == "1"
    update = registry_stub.UpdateRegisteredModel
    for name, code, reason in (
        ("2", REFUSED, "VERSION_NOT_READY"),
        ("3", REFUSED, "VERSION_ARCHIVED"),
        ("4", NOT_FOUND, "VERSION_NOT_FOUND"),
    ):
        refused(code, reason, update, project.model_update(default_version=name))
    assert project.get_model().default_version == "1"


def test_an_etag_that_is_stale_stops_a_write(project, registry_stub) -> None:
    stale = project.model().etag
    current = project.update_model(description="changed").etag
    update = project.model_update(description="lost", etag=stale)
    refused(ABORTED, "ETAG_MISMATCH", registry_stub.UpdateRegisteredModel, update)
    delete = pb.DeleteRegisteredModelRequest(project=project.name, name="fraud", etag=stale)
    refused(ABORTED, "ETAG_MISMATCH", registry_stub.DeleteRegisteredModel, delete)
    assert project.update_model(description="kept", etag=current).description == "kept"


def test_a_deleted_model_is_gone_with_its_versions_and_its_name_is_free(
    project, registry_stub
) -> None:
    first = project.model()
    project.version()
    delete = pb.DeleteRegisteredModelRequest(project=project.name, name="fraud")
    registry_stub.DeleteRegisteredModel(delete)
    refused(NOT_FOUND, "MODEL_NOT_FOUND", registry_stub.DeleteRegisteredModel, delete)
    delete.allow_missing = True
    registry_stub.DeleteRegisteredModel(delete)
    get = pb.GetRegisteredModelRequest(project=project.name, name="fraud")
    refused(NOT_FOUND, "MODEL_NOT_FOUND", registry_stub.GetRegisteredModel, get)
    assert project.model().id != first.id
    get_version = pb.GetModelVersionRequest(project=project.name, model="fraud", version="1")
    refused(NOT_FOUND, "VERSION_NOT_FOUND", registry_stub.GetModelVersion, get_version)
