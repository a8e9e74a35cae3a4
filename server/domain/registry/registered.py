"""What the registry holds: registered models, their versions, and serving environments.

Names never change; an id is the same for as long as the thing is there, and never used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from server.domain.service.inference_service import ModelFormat, ServingOptions


class ModelKey(NamedTuple):
    """The name a registered model goes by."""

    project: str
    name: str

    def __str__(self) -> str:
        return f"model {self.name!a} of project {self.project!a}"


class VersionKey(NamedTuple):
    """The name a model's version goes by."""

    project: str
    model: str
    version: str

    def __str__(self) -> str:
        return f"version {self.version!a} of {self.of}"

    @property
    def of(self) -> ModelKey:
        """The model that it is a version of."""
        return ModelKey(self.project, self.model)


class EnvironmentKey(NamedTuple):
    """The name a serving environment goes by."""

    project: str
    name: str

    def __str__(self) -> str:
        return f"environment {self.name!a} of project {self.project!a}"


class VersionState(StrEnum):
    """Whether a version can be deployed; the values are the contract's names."""

    PENDING = "PENDING"
    READY = "READY"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model that a team deploys by name. `default_version` empty: it has none."""

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
    """One version of a model: the files at `storage_uri` in `format`, or a container `image` that
    serves it by itself. Exactly one of the two is set, and `format` with the first only."""

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
    """A place to deploy to: a namespace, and how predictors are run there unless a Deploy says
    otherwise."""

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
