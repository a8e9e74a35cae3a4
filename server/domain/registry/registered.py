"""The resources of the registry: registered models, their versions, and serving environments.

Names never change. An id is never used again after its resource is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from server.domain.service.inference_service import ModelFormat, ServingOptions


class ModelKey(NamedTuple):
    """A registered model's project and name."""

    project: str
    name: str

    def __str__(self) -> str:
        return f"model {self.name!a} of project {self.project!a}"


class VersionKey(NamedTuple):
    """A version's project, model and name."""

    project: str
    model: str
    version: str

    def __str__(self) -> str:
        return f"version {self.version!a} of {self.of}"

    @property
    def of(self) -> ModelKey:
        """Return the key of its model."""
        return ModelKey(self.project, self.model)


class EnvironmentKey(NamedTuple):
    """A serving environment's project and name."""

    project: str
    name: str

    def __str__(self) -> str:
        return f"environment {self.name!a} of project {self.project!a}"


class VersionState(StrEnum):
    """The states of a version, by the API's names."""

    PENDING = "PENDING"
    READY = "READY"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model that is deployed by name. `default_version` empty: none."""

    key: ModelKey
    id: str
    create_time: datetime
    update_time: datetime
    description: str = ""
    default_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model: files at `storage_uri` in `format`, or a container `image` that
    serves the model by itself. Exactly one of the two is set, and `format` with files only."""

    key: VersionKey
    id: str
    create_time: datetime
    update_time: datetime
    storage_uri: str = ""
    image: str = ""
    format: ModelFormat | None = None
    state: VersionState = VersionState.READY
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    etag: str = ""


@dataclass(frozen=True, slots=True)
class ServingEnvironment:
    """A place to deploy to: a namespace, and default settings that a Deploy can override."""

    key: EnvironmentKey
    id: str
    namespace: str
    create_time: datetime
    update_time: datetime
    defaults: ServingOptions = field(default_factory=ServingOptions)
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""


Registered = RegisteredModel | ModelVersion | ServingEnvironment
