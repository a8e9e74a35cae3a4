"""Reads serving runtimes: `runtimes.toml`, which explains the fields, and an operator's file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

_BUILT_IN = Path(__file__).with_name("runtimes.toml")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PLACEHOLDERS = {"python", "folder", "port", "server_name", "model_name", "model", "implementation"}

Template = TypeVar("Template")


class RuntimesInvalid(Exception):
    """The operator's file cannot be used; the message has the place and the cause."""


def _check_placeholders(template: Template) -> Template:
    for name in _PLACEHOLDER.findall(json.dumps(template)):
        if name not in _PLACEHOLDERS:
            known = ", ".join(sorted(_PLACEHOLDERS))
            raise ValueError(f"{{{name}}} is no placeholder: it must be one of {known}")
    return template


def fill_template(template: Any, values: Mapping[str, str]) -> Any:
    """Replace the placeholders in every text of a JSON document."""
    match template:
        case str():
            return _PLACEHOLDER.sub(lambda found: values[found[1]], template)
        case dict():
            return {key: fill_template(value, values) for key, value in template.items()}
        case list() | tuple():
            return [fill_template(item, values) for item in template]
    return template


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)


class FormatRow(_Row):
    """A model format, and the package that loads it in the serving environment."""

    versions: tuple[str, ...] = ()
    implementation: str = ""
    model_files: tuple[str, ...] = ()
    package: str = ""


class RuntimeRow(_Row):
    """A serving runtime with its formats."""

    protocols: tuple[str, ...]
    command: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_placeholders)]
    ready: Annotated[str, Field(pattern="^/"), AfterValidator(_check_placeholders)]
    loaded: Annotated[str, AfterValidator(_check_placeholders)] = ""
    files: Annotated[dict[str, dict[str, Any]], AfterValidator(_check_placeholders)] = {}
    env: Annotated[dict[str, str], AfterValidator(_check_placeholders)] = {}
    settings: str = ""
    formats: Annotated[tuple[FormatRow, ...], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    runtime: tuple[RuntimeRow, ...]


def load(file: Path | None = None) -> tuple[RuntimeRow, ...]:
    """Return the operator's runtimes, then ours with other names. Raises RuntimesInvalid."""
    own = _read(file) if file else ()
    replaced = {row.name for row in own}
    return (*own, *(row for row in _read(_BUILT_IN) if row.name not in replaced))


def _read(file: Path) -> tuple[RuntimeRow, ...]:
    try:
        return _Table.model_validate(tomllib.loads(file.read_text())).runtime
    except OSError as e:
        raise RuntimesInvalid(f"{file} cannot be read: {e.strerror}") from e
    except ValidationError as e:
        raise RuntimesInvalid(f"{file}: {'; '.join(map(_message, e.errors()))}") from e
    except ValueError as e:
        raise RuntimesInvalid(f"{file} is not TOML: {e}") from e


def _message(error: Any) -> str:
    return f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}"
