"""Convert the registry's resources to rows and back."""

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

Item = TypeVar("Item")

_FORMAT = TypeAdapter(ModelFormat | None)
_OPTIONS = TypeAdapter(ServingOptions)
_FAILURE = TypeAdapter(Failure | None)


@dataclass(frozen=True, slots=True)
class Kind(Generic[Item]):
    """A type of resource: its table, and the parser of its rows."""

    table: Table
    read: Callable[[RowMapping], Item]


def row_of(resource: Registered | ModelDeployment) -> dict[str, Any]:
    """Return the row of a resource, without its cursor."""
    match resource:
        case RegisteredModel():
            return _common(resource) | {"default_version": resource.default_version}
        case ModelVersion():
            return _common(resource) | _version_row(resource)
        case ServingEnvironment():
            return _common(resource) | {
                "namespace": resource.namespace,
                "defaults": _OPTIONS.dump_python(resource.defaults, mode="json"),
            }
        case ModelDeployment():
            return _deployment_row(storable(resource))


def kind_of(resource: Registered | ModelDeployment) -> Kind[Any]:
    """Return the kind of a resource."""
    return _KINDS[type(resource)]


def _common(resource: Registered) -> dict[str, Any]:
    return resource.key._asdict() | {
        "id": resource.id,
        "description": resource.description,
        "labels": dict(resource.labels),
        "etag": resource.etag,
        "create_time": resource.create_time,
        "update_time": resource.update_time,
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
    """Parse a failure; None for one of a newer release that this release cannot parse."""
    if isinstance(stored, dict) and "container_text" not in stored:
        # Of a release that did not keep which part a container wrote: any of it may be.
        stored = {**stored, "container_text": stored.get("message", "")}
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
