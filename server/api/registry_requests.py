"""Convert requests of the registry. Each function is pure, and raises FieldInvalid."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from modelservice.v1 import registry_pb2 as resources_pb
from modelservice.v1 import registry_service_pb2 as pb

from server.api.requests import states_of
from server.api.specs import format_of, options_of
from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.registry.deployment import DeploymentFilter, DeploymentState
from server.domain.registry.registered import EnvironmentKey, ModelKey, VersionKey, VersionState
from server.domain.registry.registry_commands import (
    Change,
    EnvironmentContent,
    ModelContent,
    VersionContent,
)


def model_key_of(message: resources_pb.RegisteredModel) -> ModelKey:
    """Return the key of a model."""
    return ModelKey(message.project, message.name)


def model_content_of(message: resources_pb.RegisteredModel) -> ModelContent:
    """Convert the content of a model."""
    return ModelContent(
        description=message.description,
        default_version=message.default_version,
        labels=dict(message.labels),
    )


def model_change_of(request: pb.UpdateRegisteredModelRequest) -> Change[ModelContent]:
    """Convert an update of a model."""
    content = model_content_of(request.model)
    return Change(content, tuple(request.update_mask.paths), request.model.etag)


def version_key_of(message: resources_pb.ModelVersion) -> VersionKey:
    """Return the key of a version."""
    return VersionKey(message.project, message.model, message.version)


def version_content_of(message: resources_pb.ModelVersion) -> VersionContent:
    """Convert the content of a version."""
    return VersionContent(
        storage_uri=message.storage_uri,
        image=message.image,
        format=format_of(message.format) if message.HasField("format") else None,
        state=_version_state_of(message.state),
        description=message.description,
        labels=dict(message.labels),
        metadata=_metadata_of(message.metadata),
    )


def version_change_of(request: pb.UpdateModelVersionRequest) -> Change[VersionContent]:
    """Convert an update of a version."""
    content = version_content_of(request.version)
    return Change(content, tuple(request.update_mask.paths), request.version.etag)


def environment_key_of(message: resources_pb.ServingEnvironment) -> EnvironmentKey:
    """Return the key of an environment."""
    return EnvironmentKey(message.project, message.name)


def environment_content_of(message: resources_pb.ServingEnvironment) -> EnvironmentContent:
    """Convert the content of an environment."""
    return EnvironmentContent(
        namespace=message.namespace,
        defaults=options_of(message.defaults, "environment.defaults"),
        description=message.description,
        labels=dict(message.labels),
    )


def environment_change_of(
    request: pb.UpdateServingEnvironmentRequest,
) -> Change[EnvironmentContent]:
    """Convert an update of an environment."""
    content = environment_content_of(request.environment)
    return Change(content, tuple(request.update_mask.paths), request.environment.etag)


def deployment_filter_of(request: pb.ListModelDeploymentsRequest) -> DeploymentFilter:
    """Convert the filter of a list of deployments."""
    states = states_of(request.states, resources_pb.ModelDeployment.State.DESCRIPTOR)
    return DeploymentFilter(
        project=request.project,
        model=request.model,
        version=request.version,
        environment=request.environment,
        namespace=request.namespace,
        service=request.service,
        states=frozenset(map(DeploymentState, states)),
        created_after=_time_of(request.created_after, "created_after")
        if request.HasField("created_after")
        else None,
        created_before=_time_of(request.created_before, "created_before")
        if request.HasField("created_before")
        else None,
    )


def _version_state_of(number: int) -> VersionState | None:
    known = resources_pb.ModelVersion.State.DESCRIPTOR.values_by_number
    if number not in known:
        raise _invalid("version.state", f"must be a known state, got {number}")
    return VersionState(known[number].name.removeprefix("STATE_")) if number else None


def _metadata_of(message: Struct) -> Mapping[str, Any]:
    try:
        metadata: Mapping[str, Any] = MessageToDict(message)
    except ValueError:
        raise _invalid("version.metadata", "must have finite numbers only") from None
    return metadata


def _time_of(message: Timestamp, path: str) -> datetime:
    try:
        return message.ToDatetime(UTC)
    except ValueError:
        raise _invalid(path, "must be a time from the year 1 to 9999") from None


def _invalid(path: str, why: str) -> FieldInvalid:
    return FieldInvalid([FieldViolation(path, why)])
