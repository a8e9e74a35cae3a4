"""Checks a model's folder for MLServer: it needs files of known names, or settings.

Settings may name code beside them. They are honoured, as MLServer on KServe does: a model runs code
as the model server's user in any case, since a pickle is code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.adapters.local.runtimes.runtime_table import FormatRow
from server.domain.wording import listed

MOST_SETTINGS_FILES = 100
MOST_SETTINGS_BYTES = 1 << 20
_MOST_ENTRIES = 100_000
_LONGEST_SHOWN = 100
# They need a worker process, which outlives a killed server. Without one MLServer ignores them.
_OWN_ENVIRONMENT = ("environment_path", "environment_tarball")

_Settings = dict[str, Any]


class ModelUnfit(Exception):
    """The model server would misread the model; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def check_folder(folder: Path, model_name: str, settings: str, model_format: FormatRow) -> None:
    """Refuse a folder without a model, or with a model of another name. Raises ModelUnfit.

    `settings` is the name of the files that describe models; empty: the server reads none.
    """
    described = {
        file.relative_to(folder): _read(file, file.relative_to(folder))
        for file in (_settings_files(folder, settings) if settings else ())
    }
    for shown, content in described.items():
        _refuse_own_environment(shown, content)
    if described:
        _check_names(described, model_name)
    for place in _model_folders(folder, described, model_format):
        _check_files(place, model_format, settings)


def _settings_files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the settings files that MLServer finds; it skips folders that begin with a dot."""
    entries = found = 0
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        entries += len(folders) + len(files)
        if entries > _MOST_ENTRIES:
            raise ModelUnfit(
                f"the model has more than {_MOST_ENTRIES} files and folders", "use fewer"
            )
        if name in files:
            found += 1
            if found > MOST_SETTINGS_FILES:
                raise ModelUnfit(
                    f"the model has more than {MOST_SETTINGS_FILES} files {name}", "use fewer"
                )
            yield Path(where) / name


def _refuse_own_environment(shown: Path, settings: _Settings) -> None:
    for key in _OWN_ENVIRONMENT:
        if _parameters(settings).get(key):
            raise ModelUnfit(
                f"{shown} has a Python environment of the model's own, parameters.{key}, which"
                " this server does not create",
                "install its packages into the serving environment and leave that out",
            )


def _check_names(described: Mapping[Path, _Settings], model_name: str) -> None:
    names = sorted({str(settings.get("name") or model_name) for settings in described.values()})
    if model_name not in names:
        raise ModelUnfit(
            f"{_listed([str(shown) for shown in described])} names the model {_listed(names)}, but"
            f" must name {model_name}",
            f"set MLSERVER_MODEL_NAME in spec.env to one of {_listed(names)}, or leave `name` out",
        )


def _model_folders(
    folder: Path, described: Mapping[Path, _Settings], model_format: FormatRow
) -> Iterator[Path]:
    """Yield the folders in which the loader of the format looks for its files."""
    if not described:
        yield folder
    for shown, settings in described.items():
        if settings.get("implementation", model_format.implementation) == (
            model_format.implementation
        ):
            uri = str(_parameters(settings).get("uri") or "")
            # Without a uri MLServer uses the model's folder, wherever the settings lie.
            place = folder / shown.parent / uri if uri else folder
            if "://" not in uri and place.is_dir():
                yield place


def _parameters(settings: _Settings) -> _Settings:
    parameters = settings.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def _read(file: Path, shown: Path) -> _Settings:
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_SETTINGS_BYTES + 1)
        if len(text) > MOST_SETTINGS_BYTES:
            raise ValueError(f"it has more than {MOST_SETTINGS_BYTES} bytes")
        settings = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ModelUnfit(f"{shown} is not JSON: {e}", "correct it, then deploy again") from e
    if not isinstance(settings, dict):
        raise ModelUnfit(f"{shown} must be a JSON object", "correct it, then deploy again")
    return settings


def _check_files(folder: Path, model_format: FormatRow, settings: str) -> None:
    names = model_format.model_files
    if not names or any((folder / name).is_file() for name in names):
        return
    there = sorted(f"{e.name}/" if e.is_dir() else e.name for e in folder.iterdir())
    looked_for = ", ".join(names)
    own = f", add a {settings} whose parameters.uri names it" if settings else ""
    raise ModelUnfit(
        f"the model's folder has {_listed(there)}, but must have a file of the format"
        f" {model_format.name}: {looked_for}",
        f"name the model's file {' or '.join(names)} and put it at the top of the folder or"
        f" archive{own}, or set spec.model.storage_uri to the file itself",
    )


def _listed(names: Sequence[str]) -> str:
    return listed([name[:_LONGEST_SHOWN] for name in names])
