"""The commands of callers to the registry: the content of a new resource, and changes.

Empty strings, empty maps and None mean: not set. Fields have the names of the resources' fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from server.domain.registry.registered import VersionState
from server.domain.service.inference_service import ModelFormat, ServingOptions

EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class ModelContent:
    """The fields of a registered model that can change."""

    description: str = ""
    default_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionContent:
    """The fields of a version that can change: artifact and format while it is PENDING only."""

    storage_uri: str = ""
    image: str = ""
    format: ModelFormat | None = None
    state: VersionState | None = None
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnvironmentContent:
    """The fields of an environment: the namespace is set once, the others can change."""

    namespace: str = ""
    defaults: ServingOptions = field(default_factory=ServingOptions)
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


Content = TypeVar("Content", ModelContent, VersionContent, EnvironmentContent)


@dataclass(frozen=True, slots=True)
class Change(Generic[Content]):
    """Replace the fields that the mask names by those of `content`: `*` is every field, an empty
    mask the fields that are set. `etag` empty: without a check."""

    content: Content
    mask: tuple[str, ...] = ()
    etag: str = ""

    @property
    def fields(self) -> frozenset[str]:
        """Return the names of the fields to replace."""
        given = values_of(self.content)
        if EVERYTHING in self.mask:
            return frozenset(given)
        unset = values_of(type(self.content)())
        return frozenset(self.mask or (name for name in given if given[name] != unset[name]))


def values_of(content: ModelContent | VersionContent | EnvironmentContent) -> dict[str, Any]:
    """Return the value of each field by its name."""
    return {each.name: getattr(content, each.name) for each in fields(content)}
