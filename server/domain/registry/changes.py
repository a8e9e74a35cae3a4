"""What becomes of what is registered: how it is made, and what a change comes to."""

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
    """The model to store."""
    return _sealed(RegisteredModel(key, new_id, now, now, **values_of(content)))


def new_version(
    key: VersionKey, new_id: str, content: VersionContent, now: datetime
) -> ModelVersion:
    """The version to store: READY, unless it was said to be otherwise."""
    given = replace(content, state=content.state or VersionState.READY)
    return _sealed(ModelVersion(key, new_id, now, now, **values_of(given)))


def new_environment(
    key: EnvironmentKey, new_id: str, content: EnvironmentContent, now: datetime
) -> ServingEnvironment:
    """The environment to store: its namespace is the one of its name, unless it was given."""
    given = values_of(content) | {
        "namespace": content.namespace or key.name,
        "defaults": canonical_options(content.defaults),
    }
    return _sealed(
        ServingEnvironment(key=key, id=new_id, create_time=now, update_time=now, **given)
    )


def changed_model(
    model: RegisteredModel, change: Change[ModelContent], now: datetime
) -> RegisteredModel:
    """The model with the change; itself where that changes nothing."""
    return _changed(model, _taken(change), now)


def without_default(model: RegisteredModel, now: datetime) -> RegisteredModel:
    """The model once it has no default version."""
    return _changed(model, {"default_version": ""}, now)


def changed_version(
    version: ModelVersion, change: Change[VersionContent], now: datetime
) -> ModelVersion:
    """The version with the change; itself where that changes nothing. Raises FieldInvalid."""
    taken = _taken(change)
    # An unset state stays under a mask of everything: READY would publish what is still written.
    if change.content.state is None:
        taken.pop("state", None)
    if _leaves_artifact(version, change):
        taken = {name: value for name, value in taken.items() if name not in _ARTIFACT}
    if change.content.image and "image" in taken:
        taken = {"storage_uri": "", "format": None} | taken
    elif change.content.storage_uri and "storage_uri" in taken:
        taken = {"image": ""} | taken
    after = _changed(version, taken, now)
    if violations := list(_version_violations(version, after, change.fields)):
        raise FieldInvalid(violations)
    return after


def changed_environment(
    environment: ServingEnvironment, change: Change[EnvironmentContent], now: datetime
) -> ServingEnvironment:
    """The environment with the change; itself where that changes nothing. Raises
    EnvironmentNamespaceFixed."""
    taken = _taken(change)
    namespace = taken.pop("namespace", environment.namespace)
    if namespace != environment.namespace and (namespace or "namespace" in change.mask):
        raise EnvironmentNamespaceFixed(
            f"the namespace of {environment.key} is {environment.namespace!r} and never changes;"
            " make another environment for another namespace"
        )
    if "defaults" in taken:
        taken["defaults"] = canonical_options(change.content.defaults)
    return _changed(environment, taken, now)


def _taken(change: Change[Content]) -> dict[str, Any]:
    return {name: each for name, each in values_of(change.content).items() if name in change.fields}


def _changed(thing: Thing, values: dict[str, Any], now: datetime) -> Thing:
    after = replace(thing, **values)
    if after == thing:
        return thing
    return _sealed(replace(after, update_time=max(thing.update_time, now)))


def _leaves_artifact(version: ModelVersion, change: Change[VersionContent]) -> bool:
    """Whether a mask of everything means all but the artifact, which is fixed and not given."""
    given = any(getattr(change.content, name) for name in _ARTIFACT)
    return version.state is not VersionState.PENDING and EVERYTHING in change.mask and not given


def _sealed(thing: Thing) -> Thing:
    """With the etag of what it now is."""
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
                f"must stay as it is, since the version is {before.state}: add a new one",
            )
