"""Validate requests to the registry: all violations at once, each with its field's path.

Texts are bounded so that a page of any list fits a message, and have no NUL, which databases cannot
store. Rules that depend on stored resources are in `server.domain.registry.changes`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from server.domain.errors import FieldViolation, refuse_violations
from server.domain.kubernetes.names import (
    Count,
    count_violations,
    dns_label_problem,
    escaped,
    field_path,
    label_value_problem,
    qualified_name_problem,
    size,
    violation_at,
)
from server.domain.registry.deployment import DeploymentFilter
from server.domain.registry.registered import EnvironmentKey, ModelKey, VersionKey
from server.domain.registry.registry_commands import (
    EVERYTHING,
    Change,
    Content,
    EnvironmentContent,
    ModelContent,
    VersionContent,
    values_of,
)
from server.domain.registry.resource_names import name_problem, project_problem, version_problem
from server.domain.service.inference_service import (
    ContainerPredictor,
    ModelFormat,
    ModelPredictor,
    ServingOptions,
)
from server.domain.service.spec_validation import option_violations, predictor_violations

MOST_LABELS = 128
MOST_DESCRIPTION_BYTES = 16 * 1024
MOST_METADATA_BYTES = 64 * 1024
MOST_METADATA_LEVELS = 32
LONGEST_ARTIFACT = 8 * 1024

_RULES = {"project": project_problem, "name": name_problem, "version": version_problem}
_RULES |= {"model": name_problem, "environment": name_problem}
_RULES_OF_NEW = _RULES | {"project": name_problem}

Key = ModelKey | VersionKey | EnvironmentKey


def check_key(key: Key) -> None:
    """Validate a key. Raises FieldInvalid."""
    refuse_violations(_key_violations(key, ""))


def check_project(project: str) -> None:
    """Validate a project's name. Raises FieldInvalid."""
    refuse_violations(violation_at("project", project_problem(project)))


def check_new(
    key: Key, content: ModelContent | VersionContent | EnvironmentContent, resource: str
) -> None:
    """Validate a new resource. `resource` is its field in the request. Raises FieldInvalid."""
    # The project of a version exists already.
    rules = _RULES if isinstance(key, VersionKey) else _RULES_OF_NEW
    violations = [*_key_violations(key, f"{resource}.", rules)]
    violations += _violations(content, values_of(content))
    if isinstance(content, ModelContent) and content.default_version:
        violations.append(
            FieldViolation(
                "model.default_version",
                "must be empty: a new model has no version yet; set it later",
            )
        )
    if isinstance(content, VersionContent):
        violations += artifact_violations(content)
    refuse_violations(violations)


def check_change(key: Key, change: Change[Content], resource: str) -> None:
    """Validate a change, independent of the stored resource. Raises FieldInvalid."""
    violations = [*_key_violations(key, f"{resource}."), *_mask_violations(change)]
    violations += _violations(change.content, change.fields)
    if isinstance(change.content, VersionContent):
        violations += _named_state_violations(change.content, change.mask)
    refuse_violations(violations)


def check_deployment(project: str, deployment_id: str) -> None:
    """Validate a deployment id. Raises FieldInvalid."""
    problem = label_value_problem(deployment_id) if deployment_id else "must be set"
    refuse_violations(
        [*violation_at("project", project_problem(project)), *violation_at("id", problem)]
    )


def check_filter(wanted: DeploymentFilter) -> None:
    """Validate a filter. Raises FieldInvalid."""
    violations = [*violation_at("project", project_problem(wanted.project))]
    for path in ("model", "version", "environment"):
        if text := getattr(wanted, path):
            violations += violation_at(path, _RULES[path](text))
    for path, text in (("namespace", wanted.namespace), ("service", wanted.service)):
        if text:
            violations += violation_at(path, dns_label_problem(text))
    refuse_violations(violations)


def artifact_violations(content: VersionContent) -> Iterator[FieldViolation]:
    """Find violations of the artifact together with its format."""
    if bool(content.storage_uri) == bool(content.image):
        yield FieldViolation("version.artifact", "must be one of storage_uri and image")
    elif content.storage_uri and content.format is None:
        yield FieldViolation("version.format", "must be set with storage_uri")
    elif content.image and content.format is not None:
        yield FieldViolation("version.format", "must not be set with image, which has none")


def _key_violations(
    key: Key, prefix: str, rules: Mapping[str, Callable[[str], str | None]] = _RULES
) -> Iterator[FieldViolation]:
    for field, text in key._asdict().items():
        yield from violation_at(f"{prefix}{field}", rules[field](text))


def _mask_violations(change: Change[Content]) -> Iterator[FieldViolation]:
    known = values_of(change.content)
    changeable = ", ".join(name for name in known if name != "namespace")
    for path in change.mask:
        if path == EVERYTHING and len(change.mask) > 1:
            yield FieldViolation("update_mask", "must have no other path beside `*`")
        elif path != EVERYTHING and path not in known:
            why = f"must have only {changeable}, each as a whole, got {escaped(path)}"
            yield FieldViolation("update_mask", why)


def _named_state_violations(
    content: VersionContent, mask: Collection[str]
) -> Iterator[FieldViolation]:
    if content.state is None and "state" in mask:
        yield FieldViolation("version.state", "must be set if the update_mask names it")


def _violations(
    content: ModelContent | VersionContent | EnvironmentContent, fields: Collection[str]
) -> Iterator[FieldViolation]:
    """Find violations of these fields, each by itself."""
    match content:
        case ModelContent():
            resource, found = "model", _model_violations(content)
        case VersionContent():
            resource, found = "version", _version_violations(content)
        case EnvironmentContent():
            resource, found = "environment", _environment_violations(content)
    for field, violations in found.items():
        if field in fields:
            yield from (FieldViolation(f"{resource}.{path}", why) for path, why in violations)


_ByField = Mapping[str, Iterator[FieldViolation]]


def _model_violations(content: ModelContent) -> _ByField:
    default = content.default_version
    return {
        "description": _description_violations(content.description),
        "default_version": violation_at("default_version", default and version_problem(default)),
        "labels": _label_violations(content.labels),
    }


def _version_violations(content: VersionContent) -> _ByField:
    return {
        "storage_uri": _storage_uri_violations(content.storage_uri),
        "image": _image_violations(content.image),
        "format": _format_violations(content.format),
        "description": _description_violations(content.description),
        "labels": _label_violations(content.labels),
        "metadata": _metadata_violations(content.metadata),
    }


def _environment_violations(content: EnvironmentContent) -> _ByField:
    namespace = content.namespace
    return {
        "namespace": violation_at("namespace", namespace and dns_label_problem(namespace)),
        "defaults": _defaults_violations(content.defaults),
        "description": _description_violations(content.description),
        "labels": _label_violations(content.labels),
    }


def _description_violations(text: str) -> Iterator[FieldViolation]:
    yield from violation_at("description", _text_problem(text, MOST_DESCRIPTION_BYTES))


def _label_violations(labels: Mapping[str, str]) -> Iterator[FieldViolation]:
    yield from count_violations([Count("labels", len(labels), MOST_LABELS)])
    for key, value in labels.items():
        yield from violation_at(field_path("labels", key), qualified_name_problem(key))
        yield from violation_at(field_path("labels", key), label_value_problem(value))


def _storage_uri_violations(uri: str) -> Iterator[FieldViolation]:
    yield from violation_at("storage_uri", _text_problem(uri, LONGEST_ARTIFACT))


def _image_violations(image: str) -> Iterator[FieldViolation]:
    if image:
        for path, why in predictor_violations(ContainerPredictor(image)):
            yield FieldViolation(path.removeprefix("spec.container."), why)


def _format_violations(model_format: ModelFormat | None) -> Iterator[FieldViolation]:
    if model_format is None:
        return
    for path, why in predictor_violations(ModelPredictor(model_format)):
        yield FieldViolation(path.removeprefix("spec.model."), why)


def _defaults_violations(defaults: ServingOptions) -> Iterator[FieldViolation]:
    for path, why in option_violations(defaults):
        yield FieldViolation(f"defaults{path.removeprefix('spec')}", why)


def _metadata_violations(metadata: Mapping[str, Any]) -> Iterator[FieldViolation]:
    for key, value in metadata.items():
        yield from violation_at(field_path("metadata", key), _json_problem({key: value}))
    # It is stored as JSON, so its size is measured as JSON.
    if size(json.dumps(metadata, ensure_ascii=False)) > MOST_METADATA_BYTES:
        why = f"must have at most {MOST_METADATA_BYTES >> 10} KiB as JSON"
        yield FieldViolation("metadata", why)


def _json_problem(value: Any, levels: int = MOST_METADATA_LEVELS) -> str | None:
    """Check that a value can be stored as JSON."""
    if not levels:
        return f"must be nested at most {MOST_METADATA_LEVELS} levels deep"
    match value:
        case str():
            return _nul_problem(value)
        case float() if not math.isfinite(value):
            return "must have finite numbers only, like JSON"
        case dict():
            parts = [*value, *value.values()]
        case list():
            parts = value
        case _:
            return None
    problems = (_json_problem(part, levels - 1) for part in parts)
    return next((problem for problem in problems if problem), None)


def _text_problem(text: str, most_bytes: int) -> str | None:
    if (length := size(text)) > most_bytes:
        return f"must have at most {most_bytes} bytes, got {length}"
    return _nul_problem(text)


def _nul_problem(text: str) -> str | None:
    return "must have no NUL character" if "\0" in text else None
