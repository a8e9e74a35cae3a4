"""Versions of registered models through a stub."""

from __future__ import annotations

import math

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import ModelFormat
from modelservice.v1.registry_pb2 import ModelVersion

from tests.refusals import refused
from tests.strategies import texts

from .registry_project import ARCHIVED, FILES, PENDING, READY

INVALID, NOT_FOUND = StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND

_values = st.recursive(
    st.none() | st.booleans() | texts | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _model(project) -> None:
    project.model()


def metadata(**values) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


def test_a_version_of_files_is_answered_and_read_as_it_was_given(project) -> None:
    version = project.version(
        "v1.4.0-rc1", description="June", labels={"a": "1"}, metadata=metadata(auc=0.93)
    )
    assert (version.project, version.model, version.version) == (
        project.name,
        "fraud",
        "v1.4.0-rc1",
    )
    assert version.storage_uri == FILES["storage_uri"]
    assert version.WhichOneof("artifact") == "storage_uri"
    assert version.format == FILES["format"]
    assert version.state == READY
    assert (version.description, version.labels) == ("June", {"a": "1"})
    assert version.metadata["auc"] == 0.93
    assert version.id
    assert version.etag
    assert version.create_time == version.update_time
    assert project.get_version("v1.4.0-rc1") == version


def test_a_version_of_an_image_has_no_format(project) -> None:
    version = project.version(image="example.org/fraud:1")
    assert version.WhichOneof("artifact") == "image"
    assert version.image == "example.org/fraud:1"
    assert not version.HasField("format")
    assert not version.HasField("metadata")
    assert project.get_version() == version


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.dictionaries(texts, _values, max_size=4))
def test_metadata_comes_back_as_it_was_given(project, values) -> None:
    given = metadata(**values)
    project.stub.DeleteModelVersion(
        pb.DeleteModelVersionRequest(
            project=project.name, model="fraud", version="m", allow_missing=True
        )
    )
    assert MessageToDict(project.version("m", metadata=given).metadata) == MessageToDict(given)
    assert MessageToDict(project.get_version("m").metadata) == MessageToDict(given)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "version.artifact"),
        ({"storage_uri": "s3://b/m"}, "version.format"),
        ({"image": "example.org/m:1", "format": ModelFormat(name="sklearn")}, "version.format"),
        ({"storage_uri": "s3://b/m", "format": ModelFormat()}, "version.format.name"),
        (FILES | {"metadata": metadata(x=math.nan)}, "version.metadata"),
        (FILES | {"metadata": metadata(x=[-math.inf])}, "version.metadata"),
        (FILES | {"metadata": metadata(x="x" * 70_000)}, "version.metadata"),
        (FILES | {"metadata": metadata(x="\0")}, 'version.metadata["x"]'),
        (FILES | {"state": 77}, "version.state"),
        (FILES | {"state": -1}, "version.state"),
        (FILES | {"version": "-1"}, "version.version"),
    ],
)
def test_a_version_that_can_never_be_is_refused_by_the_field(
    project, registry_stub, fields, path
) -> None:
    version = ModelVersion(**{"project": project.name, "model": "fraud", "version": "1"} | fields)
    request = pb.CreateModelVersionRequest(version=version)
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.CreateModelVersion, request)
    assert refusal.fields == [path]


def test_a_version_needs_its_model(project, registry_stub) -> None:
    version = ModelVersion(project=project.name, model="other", version="1", **FILES)
    create = pb.CreateModelVersionRequest(version=version)
    refused(NOT_FOUND, "MODEL_NOT_FOUND", registry_stub.CreateModelVersion, create)
    get = pb.GetModelVersionRequest(project=project.name, model="fraud", version="1")
    refused(NOT_FOUND, "VERSION_NOT_FOUND", registry_stub.GetModelVersion, get)


def test_files_that_are_still_being_written_can_move_until_they_are_ready(
    project, registry_stub
) -> None:
    project.version(state=PENDING)
    moved = project.update_version(storage_uri="s3://models/fraud/moved")
    assert moved.storage_uri == "s3://models/fraud/moved"
    assert moved.state == PENDING
    imaged = project.update_version("image", image="example.org/fraud:1")
    assert imaged.WhichOneof("artifact") == "image"
    assert not imaged.HasField("format")
    assert project.update_version(state=READY).state == READY
    fixed = project.version_update(image="example.org/fraud:2")
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.UpdateModelVersion, fixed)
    assert refusal.fields == ["version.image"]
    back = project.version_update(state=PENDING)
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.UpdateModelVersion, back)
    assert refusal.fields == ["version.state"]


def test_an_unset_state_stays_under_a_mask_of_everything(project, registry_stub) -> None:
    project.version(state=PENDING, description="one")
    after = project.update_version("*", **FILES)
    assert (after.state, after.description) == (PENDING, "")
    named = project.version_update("state")
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.UpdateModelVersion, named)
    assert refusal.fields == ["version.state"]


@pytest.mark.parametrize("state", [READY, ARCHIVED])
def test_a_mask_of_everything_leaves_an_artifact_that_is_fixed_and_not_given(
    project, registry_stub, state
) -> None:
    version = project.version(description="one", labels={"a": "1"})
    project.update_version(state=state)
    after = project.update_version("*", description="two")
    assert (after.description, after.labels, after.state) == ("two", {}, state)
    assert (after.storage_uri, after.format) == (version.storage_uri, version.format)
    moved = project.version_update("*", **FILES | {"storage_uri": "s3://models/fraud/moved"})
    refusal = refused(INVALID, "FIELD_INVALID", registry_stub.UpdateModelVersion, moved)
    assert refusal.fields == ["version.storage_uri"]


def test_archiving_the_default_version_leaves_the_model_without_one(project) -> None:
    project.version()
    project.update_model(default_version="1")
    assert project.update_version(state=ARCHIVED).state == ARCHIVED
    assert project.get_model().default_version == ""
    assert project.update_version(state=READY).state == READY
    assert project.get_model().default_version == ""


def test_what_a_get_answers_can_be_given_back_and_changes_nothing(project, registry_stub) -> None:
    version = project.version(labels={"a": "1"}, metadata=metadata(a=[1, {"b": None}]))
    answer = registry_stub.UpdateModelVersion(pb.UpdateModelVersionRequest(version=version))
    assert answer.version == version


def test_a_deleted_version_is_gone_and_no_longer_the_default(project, registry_stub) -> None:
    project.version()
    project.update_model(default_version="1")
    delete = pb.DeleteModelVersionRequest(project=project.name, model="fraud", version="1")
    registry_stub.DeleteModelVersion(delete)
    assert project.get_model().default_version == ""
    refused(NOT_FOUND, "VERSION_NOT_FOUND", registry_stub.DeleteModelVersion, delete)
    delete.allow_missing = True
    registry_stub.DeleteModelVersion(delete)
