"""What the domain has is in the messages and in the database's rows, each field and each value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from modelservice.v1 import inference_service_pb2 as services
from modelservice.v1 import model_service_pb2 as api
from modelservice.v1 import registry_pb2 as registry

from server.adapters.sql.rows import kind_of, row_of
from server.api.registry_responses import (
    deployment_message,
    environment_message,
    model_message,
    version_message,
)
from server.api.services import failure_message, service_message, status_message
from server.control.watch_stream import EventType
from server.domain.registry.deployment import DeploymentState, DesiredState, ModelDeployment
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import (
    Component,
    ComponentStatus,
    Condition,
    Failure,
    FailureReason,
    InferenceServiceStatus,
    State,
    TrafficShare,
)
from server.domain.service.commands import Action
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    ModelFormat,
    ServiceKey,
    ServingOptions,
)

THEN = datetime(2026, 1, 1, tzinfo=UTC)
LATER = THEN + timedelta(hours=1)
FAILURE = Failure(
    FailureReason.CRASH_LOOP,
    "it crashed",
    "see its log",
    retrying=True,
    rollout_id=Rollout("uid", 1).id,
    component=Component.PREDICTOR,
    pod="pod",
    container="kserve-container",
    exit_code=1,
    restart_count=2,
    log_lines=("a line",),
    first_seen_time=THEN,
)
STATUS = InferenceServiceStatus(
    State.FAILED,
    "it crashed",
    serving=True,
    latest_ready_generation=1,
    failure=FAILURE,
    url="http://iris.example",
    cluster_url="http://iris",
    serving_runtime="kserve-mlserver",
    deployment_mode="Standard",
    components=(ComponentStatus(Component.PREDICTOR, 3, 2, 1, "r-1", (TrafficShare("r-1", 100),)),),
    conditions=(Condition("Ready", "False", "Because", "it crashed", THEN),),
    last_transition_time=THEN,
)
SERVICE = InferenceService(
    ServiceKey("models", "iris"),
    "uid",
    1,
    InferenceServiceSpec(ContainerPredictor("image:1")),
    STATUS,
    "etag",
    THEN,
    labels={"a": "b"},
    annotations={"c": "d"},
    selectable_labels={"a": "b", "e": "f"},
    delete_time=LATER,
    unmanaged=True,
    deployment_id="deployment",
    deployed_by="ci",
    spec_writer="kubectl",
)
MODEL = RegisteredModel(
    ModelKey("plants", "iris"), "id", THEN, LATER, "flowers", "1", {"a": "b"}, "e"
)
VERSION = ModelVersion(
    VersionKey("plants", "iris", "1"),
    "id",
    THEN,
    LATER,
    storage_uri="gs://bucket/iris",
    format=ModelFormat("sklearn", "1"),
    state=VersionState.ARCHIVED,
    description="the first",
    labels={"a": "b"},
    metadata={"accuracy": 0.9},
    etag="e",
)
ENVIRONMENT = ServingEnvironment(
    EnvironmentKey("plants", "staging"),
    "id",
    "staging",
    THEN,
    LATER,
    ServingOptions(service_account="reader"),
    "to try",
    {"a": "b"},
    "e",
)
DEPLOYMENT = ModelDeployment(
    *("id", "plants", "iris", "1", "staging", "model", "version", "environment"),
    ServiceKey("staging", "iris"),
    "content",
    THEN,
    LATER,
    Rollout("uid", 1),
    DesiredState.UNDEPLOYED,
    DeploymentState.SUPERSEDED,
    "http://iris.example",
    FAILURE,
    "QUOTA_EXCEEDED",
    "the quota is full",
    "somebody",
    THEN,
    LATER,
)
# Each with what makes its message, and what of it callers are not shown.
SHOWN: list[tuple[Any, Callable[[Any], Message], set[str]]] = [
    (FAILURE, failure_message, set()),
    (STATUS, partial(status_message, deployed_by="ci"), set()),
    (SERVICE, service_message, {"selectable_labels", "spec_writer"}),
    (MODEL, model_message, set()),
    (VERSION, version_message, set()),
    (ENVIRONMENT, environment_message, set()),
    (DEPLOYMENT, deployment_message, {"model_id", "version_id", "environment_id", "content"}),
]
STORED = [MODEL, VERSION, replace(VERSION, storage_uri="", format=None, image="i:1"), ENVIRONMENT]
ENUMS: list[tuple[type[StrEnum], EnumTypeWrapper, str]] = [
    (State, services.InferenceServiceStatus.State, "STATE"),
    (Component, services.ComponentStatus.Component, "COMPONENT"),
    (VersionState, registry.ModelVersion.State, "STATE"),
    (DesiredState, registry.ModelDeployment.DesiredState, "DESIRED_STATE"),
    (DeploymentState, registry.ModelDeployment.State, "STATE"),
    (Action, api.DeployResponse.Action, "ACTION"),
    (EventType, api.WatchStatusResponse.Type, "TYPE"),
]


def kind(sample: object) -> str:
    return type(sample).__name__


NAMES = [kind(sample) for sample, _, _ in SHOWN]


def unset(message: Message) -> set[str]:
    """The fields that nothing was put into, of the messages in it too; one of a oneof is enough."""
    chosen = {field.name for field, _ in message.ListFields()}
    given = {
        f.name for o in message.DESCRIPTOR.oneofs for f in o.fields if message.WhichOneof(o.name)
    }
    return {field.name for field in message.DESCRIPTOR.fields} - chosen - given


@pytest.mark.parametrize(("values", "protos", "prefix"), ENUMS, ids=lambda each: str(each)[:40])
def test_the_domain_and_the_protos_have_the_same_values(
    values: type[StrEnum], protos: EnumTypeWrapper, prefix: str
) -> None:
    assert {f"{prefix}_{value}" for value in values} == set(protos.keys()) - {
        f"{prefix}_UNSPECIFIED"
    }


@pytest.mark.parametrize(("sample", "message", "_hidden"), SHOWN, ids=NAMES)
def test_every_field_of_the_protos_is_filled(
    sample: Any, message: Callable[[Any], Message], _hidden: set[str]
) -> None:
    assert unset(message(sample)) == set()


@pytest.mark.parametrize(("sample", "message", "hidden"), SHOWN, ids=NAMES)
def test_every_field_of_the_domain_is_shown(
    sample: Any, message: Callable[[Any], Message], hidden: set[str]
) -> None:
    shown = message(sample)
    for field in fields(sample):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in hidden or default is MISSING:
            continue
        if default != getattr(sample, field.name):
            without = message(replace(sample, **{field.name: default}))
            assert without != shown, f"{field.name} is not shown"


@pytest.mark.parametrize("sample", [*STORED, DEPLOYMENT], ids=kind)
def test_every_field_of_the_domain_is_stored_and_read_again(sample: Any) -> None:
    row = row_of(sample)
    assert kind_of(sample).read(row) == sample
    # Those two are the database's own, for the order of listings.
    assert set(kind_of(sample).table.columns.keys()) == {*row, "number", "position"}
