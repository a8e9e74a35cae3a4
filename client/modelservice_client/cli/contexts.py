"""The configuration file: servers by name, and the name of the current one.

It is `modelctl/config.yaml` in $XDG_CONFIG_HOME, which is ~/.config by default, or the file that
MODELCTL_CONFIG names:

    current: staging
    contexts:
      staging: {server: "modelservice.example:443", ca: ca.pem, namespace: models}
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1 << 20


class ConfigError(Exception):
    """The configuration file is not as it must be; the text has its name and what to change."""


@dataclass(frozen=True)
class Context:
    """How to reach one server. Empty texts and None are not set."""

    server: str = ""
    namespace: str = ""
    plaintext: bool | None = None
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    token_file: str = ""


_FILES = ("ca", "cert", "key", "token_file")


@dataclass
class Config:
    """The contents of the file."""

    path: Path
    current: str = ""
    contexts: dict[str, Context] = field(default_factory=dict)

    def context(self, name: str = "") -> Context:
        """Return a context, by default the current one; without one everything is unset."""
        name = name or self.current
        if not name:
            return Context()
        if name not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise ConfigError(f"{self.path}: there is no context {name}; there is {known}")
        return self.contexts[name]

    def save(self) -> None:
        """Write the file, readable by its owner only, in one step. Where it is a symbolic link, the
        file that it leads to is written. Raises ConfigError, and leaves nothing behind then."""
        contexts = {
            name: {key: value for key, value in asdict(context).items() if value not in ("", None)}
            for name, context in self.contexts.items()
        }
        text = yaml.safe_dump({"current": self.current, "contexts": contexts}, sort_keys=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            there = self.path.resolve()
            with tempfile.NamedTemporaryFile(
                "w", dir=there.parent, prefix=".config", delete=False
            ) as written:
                new = Path(written.name)
                try:
                    written.write(text)
                    written.flush()
                    new.replace(there)
                except BaseException:
                    new.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror or error}") from error


def config_path() -> Path:
    """Return where the file is, or would be. Raises ConfigError."""
    if named := os.environ.get("MODELCTL_CONFIG"):
        return Path(named)
    # The specification: a path that is not absolute is to be ignored.
    home = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if home.startswith("/") else expanded("~/.config")
    return base / "modelctl/config.yaml"


def expanded(path: str) -> Path:
    """Return a path with the home directory in place of ~. Raises ConfigError."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: no home directory is known for it: set HOME, or give a path without ~"
        ) from None


def load() -> Config:
    """Read the file. Without one there are no contexts."""
    path = config_path()
    try:
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return Config(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: must have at most {MOST_BYTES} bytes")
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    data = _object(path, "", {} if data is None else data, {"current", "contexts"})
    contexts = data.get("contexts") or {}
    if not isinstance(contexts, dict):
        raise ConfigError(f"{path}: contexts: must be an object, by names")
    found = {str(name): _context(path, str(name), value) for name, value in contexts.items()}
    return Config(path, str(data.get("current") or ""), found)


def _context(path: Path, name: str, value: Any) -> Context:
    kinds = {known.name: known.type for known in fields(Context)}
    data = _object(path, f"contexts.{name}", value or {}, set(kinds))
    for key, given in data.items():
        must = bool if "bool" in str(kinds[key]) else str
        if not isinstance(given, must):
            kind = "true or false" if must is bool else "a string"
            raise ConfigError(f"{path}: contexts.{name}.{key}: must be {kind}")
        if key in _FILES and given:
            try:
                # Beside the file, wherever modelctl runs.
                data[key] = str(path.parent / expanded(str(given)))
            except ConfigError as error:
                raise ConfigError(f"{path}: contexts.{name}.{key}: {error}") from None
    return Context(**data)


def _object(path: Path, where: str, value: Any, known: set[str]) -> dict[str, Any]:
    place = f"{path}: {where}" if where else str(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: must be an object")
    if unknown := sorted(str(key) for key in value if key not in known):
        fields_ = ", ".join(sorted(known))
        raise ConfigError(f"{place}: has no field {unknown[0]}. Its fields: {fields_}")
    return dict(value)
