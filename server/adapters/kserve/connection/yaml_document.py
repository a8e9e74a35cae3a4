"""Parse YAML and JSON documents with typed fields: kubeconfigs and output of credential plugins."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml


class ConfigurationUnusable(Exception):
    """A kubeconfig, a credential plugin or a pod's credentials cannot be used.

    The message is for operators: it names the file and the field, and holds no secret.
    """


class FileMissing(ConfigurationUnusable):
    """The file does not exist."""


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises FileMissing, or ConfigurationUnusable with the reason.
    """
    try:
        # Without O_NONBLOCK opening a pipe would block.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationUnusable(f"{path} must be a regular file")
            content = file.read(limit + 1)
    except FileNotFoundError as e:
        raise FileMissing(f"{path}: there is no such file") from e
    except OSError as e:
        raise ConfigurationUnusable(f"{path} cannot be read: {e.strerror}") from e
    if len(content) > limit:
        raise ConfigurationUnusable(f"{path} must be at most {limit} bytes long")
    return content


def parse(content: bytes) -> Any:
    """Parse JSON, or the first document of YAML as kubectl reads it.

    Raises ConfigurationUnusable; its message does not quote the content.
    """
    try:
        text = content.decode("utf-8-sig")
        return json.loads(text)
    except UnicodeDecodeError as e:
        raise ConfigurationUnusable("must be UTF-8") from e
    except RecursionError as e:
        raise ConfigurationUnusable("is nested too deeply") from e
    except ValueError:
        pass
    try:
        return next(yaml.load_all(text, _Loader), None)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise ConfigurationUnusable(f"must be YAML: line {line}: {e.problem}") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ConfigurationUnusable("must be YAML") from e


def parse_printed(content: bytes) -> Any:
    """Parse a program's output, as kubectl does.

    Output that begins with a brace must be JSON; the rest is read as `parse` does. Raises
    ConfigurationUnusable.
    """
    if not content.lstrip().startswith(b"{"):
        return parse(content)
    try:
        return json.loads(content)
    except RecursionError as e:
        raise ConfigurationUnusable("is nested too deeply") from e
    except ValueError as e:
        raise ConfigurationUnusable("must be one JSON object with nothing after it") from e


class Fields:
    """The fields of one mapping. A missing field, or null, is the empty value of its type.

    `field_path` names the mapping in messages. A field of another type raises
    ConfigurationUnusable.
    """

    def __init__(self, value: Any, field_path: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise ConfigurationUnusable(f"{field_path}: must be a mapping, got {_kind(value)}")
        self.field_path = field_path
        self._values: Mapping[Any, Any] = value or {}

    def names(self) -> Collection[Any]:
        """The names of the fields."""
        return self._values.keys()

    def raw(self, name: str) -> Any:
        """Get a field as parsed; None if it is missing."""
        return self._values.get(name)

    def string(self, name: str) -> str:
        """Get a string."""
        return self._typed(name, str, "a string") or ""

    def boolean(self, name: str) -> bool:
        """Get a boolean."""
        return self._typed(name, bool, "true or false") or False

    def data(self, name: str) -> bytes:
        """Get base64-encoded bytes."""
        # Go ignores line breaks, and nothing else.
        encoded = re.sub("[\r\n]", "", self.string(name))
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as e:
            raise self.invalid(name, "must be base64") from e

    def strings(self, name: str) -> tuple[str, ...]:
        """Get a list of strings."""
        items = self._typed(name, list, "a list") or []
        for i, item in enumerate(items):
            if not isinstance(item, str | None):
                raise self.invalid(f"{name}[{i}]", f"must be a string, got {_kind(item)}")
        return tuple(item or "" for item in items)

    def string_lists(self, name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Get a mapping of lists of strings, in the order of its keys."""
        fields = self.fields(name)
        return tuple((str(key), fields.strings(key)) for key in sorted(fields.names(), key=str))

    def fields(self, name: str) -> Fields:
        """Get a mapping."""
        return Fields(self.raw(name), self._path_of(name))

    def list_of_fields(self, name: str) -> Iterator[Fields]:
        """Get a list of mappings; messages show the name of each, or else its index."""
        for i, item in enumerate(self._typed(name, list, "a list") or []):
            named = item.get("name") if isinstance(item, dict) else None
            yield Fields(item, f"{self._path_of(name)}[{named if isinstance(named, str) else i}]")

    def invalid(self, name: str, problem: str) -> ConfigurationUnusable:
        """Return the error for a field, which says what it must be."""
        return ConfigurationUnusable(f"{self._path_of(name)}: {problem}")

    def _path_of(self, name: str) -> str:
        return f"{self.field_path}{'' if self.field_path.endswith(' ') else '.'}{name}"

    def _typed(self, name: str, wanted: type, description: str) -> Any:
        value = self.raw(name)
        if value is None or isinstance(value, wanted):
            return value
        raise self.invalid(name, f"must be {description}, got {_kind(value)}")


def _kind(value: Any) -> str:
    """Return the type of a value; the value itself may be a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "a mapping"


if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:  # libyaml's loader is ten times faster
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """YAML with kubectl's scalars: a date is a string, 1:30 is no number, and y is a boolean."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    bool_values: ClassVar[dict[str, bool]] = yaml.SafeLoader.bool_values | {"y": True, "n": False}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (
        "bool",
        r"[yYnN]|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        list("yYnNtTfFoO"),
    ),
    ("int", r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first
    )
