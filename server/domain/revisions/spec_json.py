"""Convert the content of a revision to the JSON form of its protobuf messages, and back.

Kubernetes objects keep revisions in this form, so that kubectl shows what the API shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from server.domain.revisions.revision import RevisionContent
from server.domain.service.inference_service import (
    ContainerPredictor,
    ModelPredictor,
    RegisteredModelPredictor,
    Resources,
    RolloutStrategy,
    Scaling,
)

_PREDICTORS: Mapping[str, type] = {
    "container": ContainerPredictor,
    "model": ModelPredictor,
    "registeredModel": RegisteredModelPredictor,
}
_RESOLVED: Mapping[str, type] = {
    "resolvedContainer": ContainerPredictor,
    "resolvedModel": ModelPredictor,
}
# The fields that stand in the JSON of their message as one of a oneof.
_ONEOFS: Mapping[str, Mapping[str, type]] = {"predictor": _PREDICTORS, "resolved": _RESOLVED}
_ENUM_PREFIX = "TYPE_"
_MICROSECOND = timedelta(microseconds=1)
_DURATION = re.compile(r"(\d{1,12})(?:\.(\d{1,6}))?s", re.ASCII)


def content_json(content: RevisionContent) -> dict[str, Any]:
    """Return an object with `spec`, `labels` and `annotations`, as protobuf's JSON has them."""
    return _message(content)


def parse_content(content: Any) -> RevisionContent:
    """Parse an object that `content_json` made. Raises ValueError.

    Unknown fields are errors: a rollback must not leave out what a later release has stored.
    """
    parsed = _parse(RevisionContent, content)
    assert isinstance(parsed, RevisionContent)
    return parsed


def _message(value: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object, without the fields that protobuf leaves out."""
    shown: dict[str, Any] = {}
    for field in fields(value):
        given = getattr(value, field.name)
        if _is_left_out(type(value), field.name, given):
            continue
        if oneof := _ONEOFS.get(field.name):
            name = next(name for name, kind in oneof.items() if isinstance(given, kind))
        else:
            name = _camel(field.name)
        shown[name] = _json(field.name, given)
    if isinstance(value, RolloutStrategy):
        shown["type"] = f"{_ENUM_PREFIX}{value.type}"
    return shown


def _is_left_out(owner: type, name: str, value: Any) -> bool:
    if _is_optional(_hints(owner)[name]):
        return value is None
    return value in ("", 0) or value in ((), {}) or value in (Resources(), Scaling())


def _json(name: str, value: Any) -> Any:
    # Most values are texts, and there can be thousands.
    if isinstance(value, str):
        return value
    if is_dataclass(value):
        return _message(value)
    if isinstance(value, Mapping):
        return {key: _json(name, inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_json(name, inner) for inner in value]
    if isinstance(value, timedelta):
        return _duration(value)
    # The one int64 of a spec, which JSON has as a text.
    return str(value) if name == "toleration_seconds" else value


def _parse(hint: Any, value: Any) -> Any:
    """Parse a JSON value to the type of a field. Raises ValueError."""
    if _is_optional(hint):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple(_parse(arguments[0], inner) for inner in _of(list, value))
    if origin is not None:
        return {str(key): _parse(arguments[1], inner) for key, inner in _of(dict, value).items()}
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _parse_message(hint, _of(dict, value))
    if hint is timedelta:
        return _parse_duration(value)
    if hint is int:
        return _parse_number(value)
    return _of(str, value)


def _parse_message(kind: type, value: Mapping[str, Any]) -> Any:
    hints, left, given = _hints(kind), dict(value), {}
    for name in hints:
        for one, predictor in _ONEOFS.get(name, {}).items():
            if one in left:
                given[name] = _parse(predictor, left.pop(one))
                break
        if _camel(name) in left and name not in _ONEOFS:
            given[name] = _parse(hints[name], left.pop(_camel(name)))
    if left:
        raise ValueError(f"{kind.__name__} has no field {min(left)}")
    if kind is RolloutStrategy:
        given["type"] = given.get("type", "").removeprefix(_ENUM_PREFIX)
    # A text that has no default here is left out where it is empty.
    required = {f.name: "" for f in fields(kind) if hints[f.name] is str}
    try:
        return kind(**{**required, **given})
    except TypeError:
        raise ValueError(f"{kind.__name__} lacks a field") from None


def _parse_number(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("int is expected")
    return value


def _duration(value: timedelta) -> str:
    seconds, micros = divmod(value // _MICROSECOND, 10**6)
    if not micros:
        return f"{seconds}s"
    digits = f"{micros:06}"
    return f"{seconds}.{digits.removesuffix('000')}s"


def _parse_duration(value: Any) -> timedelta:
    match = _DURATION.fullmatch(_of(str, value))
    if match is None:
        raise ValueError("a duration is expected")
    return timedelta(seconds=int(match[1]), microseconds=int((match[2] or "").ljust(6, "0")))


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} is expected")
    return value


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _is_optional(hint: Any) -> bool:
    return isinstance(hint, UnionType) and type(None) in get_args(hint)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
