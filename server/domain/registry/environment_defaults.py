"""Merge the defaults of an environment into a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from server.domain.service.inference_service import (
    InferenceServiceSpec,
    Resources,
    Scaling,
    ServingOptions,
)


def with_defaults(spec: InferenceServiceSpec, defaults: ServingOptions) -> InferenceServiceSpec:
    """Return the spec with defaults for unset fields: maps (including resources) by key, scaling by
    field, other fields as a whole.

    A variable of the spec is not replaced by a default in the other of env and secret_env.
    """
    options = {f.name: _merged(getattr(spec, f.name), getattr(defaults, f.name)) for f in _OPTIONS}
    merged = replace(spec, **options)
    return replace(
        merged,
        env=_without(merged.env, spec.secret_env.keys()),
        secret_env=_without(merged.secret_env, spec.env.keys()),
    )


_OPTIONS = fields(ServingOptions)
_UNSET = ("", None, ())


def _merged(given: Any, default: Any) -> Any:
    if isinstance(given, Mapping):
        return {**default, **given}
    if isinstance(given, Resources | Scaling):
        names = [f.name for f in fields(given)]
        return replace(given, **{p: _merged(getattr(given, p), getattr(default, p)) for p in names})
    return default if given in _UNSET else given


def _without(variables: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name not in names}
