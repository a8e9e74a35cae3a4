"""What callers ask of the registry: the content of a new thing, and changes of one.

Empty strings, maps and None mean: not given. The fields are named as those of what is registered.
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
    """All of a registered model that may change."""

    description: str = ""
    default_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionContent:
    """All of a version that may change: the artifact and its format while it is PENDING only."""

    storage_uri: str = ""
    image: str = ""
    format: ModelFormat | None = None
    state: VersionState | None = None
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnvironmentContent:
    """An environment: the namespace is given once, the rest may change."""

    namespace: str = ""
    defaults: ServingOptions = field(default_factory=ServingOptions)
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


Content = TypeVar("Content", ModelContent, VersionContent, EnvironmentContent)


@dataclass(frozen=True, slots=True)
class Change(Generic[Content]):
    """Take from `content` the fields that the mask names: `*` is every one, an empty mask those
    that are given. `etag` empty: whatever it has become meanwhile."""

    content: Content
    mask: tuple[str, ...] = ()
    etag: str = ""

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields to take."""
        given = values_of(self.content)
        if EVERYTHING in self.mask:
            return frozenset(given)
        unset = values_of(type(self.content)())
        return frozenset(self.mask or (name for name in given if given[name] != unset[name]))


def values_of(content: ModelContent | VersionContent | EnvironmentContent) -> dict[str, Any]:
    """Each field's value by its name."""
    return {each.name: getattr(content, each.name) for each in fields(content)}
