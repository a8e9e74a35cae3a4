"""An environment's defaults under what a Deploy asks for."""

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
    """The spec, with the defaults where it asks for nothing: maps (resources among them) by key,
    scaling by field, anything else as a whole.

    A variable that the spec has as a secret or not stays so, whatever the default is.
    """
    options = {f.name: _merged(getattr(spec, f.name), getattr(defaults, f.name)) for f in _OPTIONS}
    merged = replace(spec, **options)
    return replace(
        merged,
        env=_without(merged.env, spec.secret_env.keys()),
        secret_env=_without(merged.secret_env, spec.env.keys()),
    )


_OPTIONS = fields(ServingOptions)
_NOT_ASKED = ("", None, ())


def _merged(asked: Any, default: Any) -> Any:
    if isinstance(asked, Mapping):
        return {**default, **asked}
    if isinstance(asked, Resources | Scaling):
        parts = [f.name for f in fields(asked)]
        return replace(asked, **{p: _merged(getattr(asked, p), getattr(default, p)) for p in parts})
    return default if asked in _NOT_ASKED else asked


def _without(variables: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name not in names}
