"""Create and change registered resources: pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, TypeVar

from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.registry.registry_commands import (
    EVERYTHING,
    Change,
    Content,
    EnvironmentContent,
    ModelContent,
    VersionContent,
    values_of,
)
from server.domain.registry.registry_errors import EnvironmentNamespaceFixed
from server.domain.registry.registry_validation import artifact_violations
from server.domain.service.canonical_spec import canonical_options
from server.domain.service.commands import fingerprint

Thing = TypeVar("Thing", RegisteredModel, ModelVersion, ServingEnvironment)

_ARTIFACT = ("storage_uri", "image", "format")


def new_model(key: ModelKey, new_id: str, content: ModelContent, now: datetime) -> RegisteredModel:
    """Create the model to store."""
    return _with_etag(RegisteredModel(key, new_id, now, now, **values_of(content)))


def new_version(
    key: VersionKey, new_id: str, content: VersionContent, now: datetime
) -> ModelVersion:
    """Create the version to store: READY, unless its state is given."""
    given = replace(content, state=content.state or VersionState.READY)
    return _with_etag(ModelVersion(key, new_id, now, now, **values_of(given)))


def new_environment(
    key: EnvironmentKey, new_id: str, content: EnvironmentContent, now: datetime
) -> ServingEnvironment:
    """Create the environment to store: its namespace has its name, unless one is given."""
    given = values_of(content) | {
        "namespace": content.namespace or key.name,
        "defaults": canonical_options(content.defaults),
    }
    return _with_etag(
        ServingEnvironment(key=key, id=new_id, create_time=now, update_time=now, **given)
    )


def changed_model(
    model: RegisteredModel, change: Change[ModelContent], now: datetime
) -> RegisteredModel:
    """Return the model with the change; the same object if nothing changes."""
    return _changed(model, _changed_values(change), now)


def without_default(model: RegisteredModel, now: datetime) -> RegisteredModel:
    """Return the model without a default version."""
    return _changed(model, {"default_version": ""}, now)


def changed_version(
    version: ModelVersion, change: Change[VersionContent], now: datetime
) -> ModelVersion:
    """Return the version with the change, or the same object. Raises FieldInvalid."""
    values = _changed_values(change)
    # A mask of everything keeps an unset state: READY would publish files that are still written.
    if change.content.state is None:
        values.pop("state", None)
    if _excludes_artifact(version, change):
        values = {name: value for name, value in values.items() if name not in _ARTIFACT}
    if change.content.image and "image" in values:
        values = {"storage_uri": "", "format": None} | values
    elif change.content.storage_uri and "storage_uri" in values:
        values = {"image": ""} | values
    after = _changed(version, values, now)
    if violations := list(_version_violations(version, after, change.fields)):
        raise FieldInvalid(violations)
    return after


def changed_environment(
    environment: ServingEnvironment, change: Change[EnvironmentContent], now: datetime
) -> ServingEnvironment:
    """Return the environment with the change; the same object if nothing changes. Raises
    EnvironmentNamespaceFixed."""
    values = _changed_values(change)
    namespace = values.pop("namespace", environment.namespace)
    if namespace != environment.namespace and (namespace or "namespace" in change.mask):
        raise EnvironmentNamespaceFixed(
            f"the namespace of {environment.key} is {environment.namespace!r} and never changes;"
            " create another environment for another namespace"
        )
    if "defaults" in values:
        values["defaults"] = canonical_options(change.content.defaults)
    return _changed(environment, values, now)


def _changed_values(change: Change[Content]) -> dict[str, Any]:
    return {name: each for name, each in values_of(change.content).items() if name in change.fields}


def _changed(thing: Thing, values: dict[str, Any], now: datetime) -> Thing:
    after = replace(thing, **values)
    if after == thing:
        return thing
    return _with_etag(replace(after, update_time=max(thing.update_time, now)))


def _excludes_artifact(version: ModelVersion, change: Change[VersionContent]) -> bool:
    """Report whether a mask of everything excludes the artifact, which is fixed and not given."""
    given = any(getattr(change.content, name) for name in _ARTIFACT)
    return version.state is not VersionState.PENDING and EVERYTHING in change.mask and not given


def _with_etag(thing: Thing) -> Thing:
    """Return the resource with the etag of its content."""
    return replace(thing, etag=fingerprint(asdict(replace(thing, etag=""))))


def _version_violations(
    before: ModelVersion, after: ModelVersion, fields: frozenset[str]
) -> Iterator[FieldViolation]:
    if after.state is VersionState.PENDING and before.state is not VersionState.PENDING:
        yield FieldViolation(
            "version.state", f"must not become PENDING again: it is {before.state}"
        )
    moved = [name for name in _ARTIFACT if getattr(before, name) != getattr(after, name)]
    if before.state is VersionState.PENDING:
        yield from artifact_violations(VersionContent(after.storage_uri, after.image, after.format))
    else:
        for name in filter(fields.__contains__, moved):
            yield FieldViolation(
                f"version.{name}",
                f"must not change, since the version is {before.state}: add a new version",
            )
