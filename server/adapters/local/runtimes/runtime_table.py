"""The table of serving runtimes: `runtimes.toml`, where its fields are explained, and a file of the
operator's own."""

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
    """The operator's file of runtimes cannot be used; the message says where and why."""


def _checked(template: Template) -> Template:
    for name in _PLACEHOLDER.findall(json.dumps(template)):
        if name not in _PLACEHOLDERS:
            known = ", ".join(sorted(_PLACEHOLDERS))
            raise ValueError(f"{{{name}}} stands for nothing; known are {known}")
    return template


def filled(template: Any, values: Mapping[str, str]) -> Any:
    """Put the values in the places of their names, in every text of a JSON document."""
    match template:
        case str():
            return _PLACEHOLDER.sub(lambda found: values[found[1]], template)
        case dict():
            return {key: filled(value, values) for key, value in template.items()}
        case list() | tuple():
            return [filled(item, values) for item in template]
    return template


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)


class FormatRow(_Row):
    """A model format, and the package of the serving environment that loads it."""

    versions: tuple[str, ...] = ()
    implementation: str = ""
    model_files: tuple[str, ...] = ()
    package: str = ""


class RuntimeRow(_Row):
    """A kind of model server, with the formats that it serves."""

    protocols: tuple[str, ...]
    command: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_checked)]
    ready: Annotated[str, Field(pattern="^/"), AfterValidator(_checked)]
    loaded: Annotated[str, AfterValidator(_checked)] = ""
    files: Annotated[dict[str, dict[str, Any]], AfterValidator(_checked)] = {}
    env: Annotated[dict[str, str], AfterValidator(_checked)] = {}
    settings: str = ""
    formats: Annotated[tuple[FormatRow, ...], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    runtime: tuple[RuntimeRow, ...]


def load(more: Path | None = None) -> tuple[RuntimeRow, ...]:
    """The operator's runtimes, then those of ours that they do not replace by name.

    Raises RuntimesInvalid.
    """
    first = _read(more) if more else ()
    replaced = {row.name for row in first}
    return (*first, *(row for row in _read(_BUILT_IN) if row.name not in replaced))


def _read(file: Path) -> tuple[RuntimeRow, ...]:
    try:
        return _Table.model_validate(tomllib.loads(file.read_text())).runtime
    except OSError as e:
        raise RuntimesInvalid(f"{file} cannot be read: {e.strerror}") from e
    except ValidationError as e:
        raise RuntimesInvalid(f"{file}: {'; '.join(map(_told, e.errors()))}") from e
    except ValueError as e:
        raise RuntimesInvalid(f"{file} is not TOML: {e}") from e


def _told(error: Any) -> str:
    return f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}"
