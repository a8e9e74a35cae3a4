"""Serving runtimes: which model server a model gets, and how that is started."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from server.adapters.local.runtimes import runtime_table
from server.adapters.local.runtimes.model_folder import check_folder
from server.adapters.local.runtimes.runtime_table import FormatRow, RuntimeRow, filled
from server.adapters.local.runtimes.serving_environment import has_package, install_command
from server.domain.service import model_name
from server.domain.service.inference_service import ModelPredictor

_NO_PROGRAM = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)


class NoRuntime(Exception):
    """Nothing here serves the model as asked; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Place:
    """What one model server is started with.

    `folder` is its working directory and has nothing else in it; `model`, the model's file or
    folder, lies elsewhere, and is None without a storage_uri. `args` are appended to the command.
    """

    python: Path
    folder: Path
    port: int
    server_name: str
    model_name: str
    model: Path | None = None
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """How a model server is started: `files`, by name, are to be written into its folder, and
    `links`, by name, are to lead from there; `env` are variables of its own.

    It is this very server if GET /v2 answers the `server_name` as `name`, and its model is ready
    if GET `ready_path` then answers 200. Once its log has the text `loaded` (empty: it never tells)
    the load has ended, whatever came of it.
    """

    command: tuple[str, ...]
    files: Mapping[str, str]
    links: Mapping[str, Path]
    env: Mapping[str, str]
    ready_path: str
    loaded: str


@dataclass(frozen=True, slots=True)
class ServingRuntime:
    """A kind of model server, and the format that it is to serve."""

    row: RuntimeRow
    format: FormatRow

    @property
    def name(self) -> str:
        """As KServe names it."""
        return self.row.name

    def launch(self, place: Place) -> Launch:
        """Say how to start one of it in a place. Blocks."""
        values = {key: str(value or "") for key, value in asdict(place).items()}
        values["implementation"] = self.format.implementation
        files = {name: filled(content, values) for name, content in self.row.files.items()}
        return Launch(
            command=(*filled(self.row.command, values), *place.args),
            files={name: json.dumps(content, indent=2) for name, content in files.items()},
            links=self._links(place),
            env=filled(self.row.env, values),
            ready_path=filled(self.row.ready, values),
            loaded=filled(self.row.loaded, values),
        )

    def check(self, place: Place, variables: Container[str]) -> None:
        """Refuse what this server would misread, unless `variables`, which the Deploy gives, say
        what it is to read. Blocks. Raises ModelUnfit."""
        given = any(name in variables for name in self.row.env if name != model_name.VARIABLE)
        if place.model and place.model.is_dir() and not given:
            check_folder(place.model, place.model_name, self.row.settings, self.format)

    def _links(self, place: Place) -> dict[str, Path]:
        """What of the model's folder the server finds in its own, where it looks for settings."""
        if not (self.row.settings and place.model and place.model.is_dir()):
            return {}
        found = {entry.name: entry for entry in place.model.iterdir()}
        return {n: e for n, e in found.items() if n not in self.row.files and n[0] != "."}


class Runtimes:
    """All serving runtimes of the local cluster."""

    def __init__(self, rows: Sequence[RuntimeRow]) -> None:
        self._all = [ServingRuntime(row, f) for row in rows for f in row.formats]

    @classmethod
    def load(cls, more: Path | None = None) -> Runtimes:
        """Take ours, and those of the operator's file. Raises runtime_table.RuntimesInvalid."""
        return cls(runtime_table.load(more))

    async def select(self, model: ModelPredictor, python: Path) -> ServingRuntime:
        """Choose the first that fits, as KServe would, and make sure that it is installed.

        Asked anew each time, since a package may have been installed meanwhile. Raises NoRuntime,
        and OSError where this machine can start nothing more.
        """
        runtime = self._fitting(model)
        requirement = runtime.format.package
        if requirement and not await _is_installed(runtime, python):
            raise NoRuntime(
                f"the serving environment lacks the package {requirement},"
                f" which {runtime.name} needs for the format {runtime.format.name}",
                f"{install_command(python, requirement)}; then deploy again",
            )
        return runtime

    def _fitting(self, model: ModelPredictor) -> ServingRuntime:
        version = model.format.version
        fitting = _narrowed(self._all, "name", model.runtime, lambda r: (r.name,))
        fitting = _narrowed(fitting, "format", model.format.name, lambda r: (r.format.name,))
        fitting = _narrowed(fitting, "version", version, lambda r: r.format.versions or (version,))
        protocol = model.protocol_version
        return _narrowed(fitting, "protocol_version", protocol, lambda r: r.row.protocols)[0]


def _narrowed(
    runtimes: Sequence[ServingRuntime],
    what: str,
    wanted: str,
    offered: Callable[[ServingRuntime], Iterable[str]],
) -> Sequence[ServingRuntime]:
    """Those that offer what is wanted, which may be nothing in particular."""
    fitting = [r for r in runtimes if not wanted or wanted in offered(r)]
    if not fitting:
        known = ", ".join(sorted({each for r in runtimes for each in offered(r)}))
        raise NoRuntime(
            f"no serving runtime of this server has the {what} {wanted}",
            f"use one of {known}; MODELSERVICE_SERVING_RUNTIMES adds further runtimes",
        )
    return fitting


async def _is_installed(runtime: ServingRuntime, python: Path) -> bool:
    try:
        return await has_package(python, runtime.format.package)
    except OSError as e:
        if e.errno not in _NO_PROGRAM:
            raise
        raise NoRuntime(
            f"there is no serving environment to run {runtime.name} in: {python} does not start",
            "make serving; or let MODELSERVICE_SERVING_PYTHON name a Python that has MLServer",
        ) from e
