"""What the registry holds, as rows of its tables and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import RowMapping, Table

from server.adapters.sql import tables
from server.domain.registry.deployment import DeploymentState, DesiredState, ModelDeployment
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    Registered,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.registry.storable_text import storable
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import Failure
from server.domain.service.inference_service import ModelFormat, ServiceKey, ServingOptions

Thing = TypeVar("Thing")

_FORMAT = TypeAdapter(ModelFormat | None)
_OPTIONS = TypeAdapter(ServingOptions)
_FAILURE = TypeAdapter(Failure | None)


@dataclass(frozen=True, slots=True)
class Kind(Generic[Thing]):
    """A kind of thing: its table, and how a row is read."""

    table: Table
    read: Callable[[RowMapping], Thing]


def row_of(thing: Registered | ModelDeployment) -> dict[str, Any]:
    """The row that a thing is stored as, without its position."""
    match thing:
        case RegisteredModel():
            return _common(thing) | {"default_version": thing.default_version}
        case ModelVersion():
            return _common(thing) | _version_row(thing)
        case ServingEnvironment():
            return _common(thing) | {
                "namespace": thing.namespace,
                "defaults": _OPTIONS.dump_python(thing.defaults, mode="json"),
            }
        case ModelDeployment():
            return _deployment_row(storable(thing))


def kind_of(thing: Registered | ModelDeployment) -> Kind[Any]:
    """The kind that a thing is of."""
    return _KINDS[type(thing)]


def _common(thing: Registered) -> dict[str, Any]:
    return thing.key._asdict() | {
        "id": thing.id,
        "description": thing.description,
        "labels": dict(thing.labels),
        "etag": thing.etag,
        "create_time": thing.create_time,
        "update_time": thing.update_time,
    }


def _common_of(row: RowMapping) -> dict[str, Any]:
    names = ("id", "description", "labels", "etag", "create_time", "update_time")
    return {name: row[name] for name in names}


def _version_row(version: ModelVersion) -> dict[str, Any]:
    return {
        "storage_uri": version.storage_uri,
        "image": version.image,
        "format": _FORMAT.dump_python(version.format, mode="json"),
        "state": version.state.value,
        "metadata": dict(version.metadata),
    }


def _deployment_row(deployment: ModelDeployment) -> dict[str, Any]:
    plain = {name: getattr(deployment, name) for name in _PLAIN}
    uid, generation = deployment.rollout or (None, None)
    return plain | {
        "namespace": deployment.service.namespace,
        "service": deployment.service.name,
        "rollout_uid": uid,
        "rollout_generation": generation,
        "desired_state": deployment.desired_state.value,
        "state": deployment.state.value,
        "failure": _FAILURE.dump_python(deployment.failure, mode="json"),
    }


def _failure_of(stored: Any) -> Failure | None:
    """None also for one of a newer release, of a kind that this one cannot name."""
    try:
        return _FAILURE.validate_python(stored)
    except ValidationError:
        return None


def _model(row: RowMapping) -> RegisteredModel:
    return RegisteredModel(
        key=ModelKey(row["project"], row["name"]),
        default_version=row["default_version"],
        **_common_of(row),
    )


def _version(row: RowMapping) -> ModelVersion:
    return ModelVersion(
        key=VersionKey(row["project"], row["model"], row["version"]),
        storage_uri=row["storage_uri"],
        image=row["image"],
        format=_FORMAT.validate_python(row["format"]),
        state=VersionState(row["state"]),
        metadata=row["metadata"],
        **_common_of(row),
    )


def _environment(row: RowMapping) -> ServingEnvironment:
    return ServingEnvironment(
        key=EnvironmentKey(row["project"], row["name"]),
        namespace=row["namespace"],
        defaults=_OPTIONS.validate_python(row["defaults"]),
        **_common_of(row),
    )


def _deployment(row: RowMapping) -> ModelDeployment:
    uid = row["rollout_uid"]
    return ModelDeployment(
        service=ServiceKey(row["namespace"], row["service"]),
        rollout=Rollout(uid, row["rollout_generation"]) if uid is not None else None,
        desired_state=DesiredState(row["desired_state"]),
        state=DeploymentState(row["state"]),
        failure=_failure_of(row["failure"]),
        **{name: row[name] for name in _PLAIN},
    )


_PLAIN = (
    "id",
    "project",
    "model",
    "version",
    "environment",
    "model_id",
    "version_id",
    "environment_id",
    "content",
    "create_time",
    "update_time",
    "url",
    "error_reason",
    "error_message",
    "caller",
    "ready_time",
    "end_time",
)

MODELS = Kind(tables.MODELS, _model)
VERSIONS = Kind(tables.VERSIONS, _version)
ENVIRONMENTS = Kind(tables.ENVIRONMENTS, _environment)
DEPLOYMENTS = Kind(tables.DEPLOYMENTS, _deployment)

_KINDS: Mapping[type, Kind[Any]] = {
    RegisteredModel: MODELS,
    ModelVersion: VERSIONS,
    ServingEnvironment: ENVIRONMENTS,
    ModelDeployment: DEPLOYMENTS,
}
