"""Serving runtimes: select one for a model, and build its command."""

from __future__ import annotations

import errno
import json
import re
import shlex
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from server.adapters.local.runtimes import runtime_table
from server.adapters.local.runtimes.model_folder import check_folder
from server.adapters.local.runtimes.runtime_table import FormatRow, RuntimeRow, fill_template
from server.child_process import ChildProcess
from server.domain.service import model_name
from server.domain.service.inference_service import ModelPredictor

_VERSION_OF = "import sys\nfrom importlib.metadata import version\nversion(sys.argv[1])"
_NO_PROGRAM = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)


class NoRuntime(Exception):
    """No serving runtime fits the model; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """The values that a model server is started with.

    `folder` is its own working directory. `model` is the model's file or folder, which lies
    elsewhere; None without a storage_uri. `args` are appended to the command.
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
    """The command of a model server, with the `files` and `links` of its folder by name.

    The server is identified by the `server_name` that GET /v2 answers as `name`. Its model is ready
    if GET `ready_path` answers 200. The text `loaded` in its log marks the end of the load, also of
    one that failed; empty: it logs none.
    """

    command: tuple[str, ...]
    files: Mapping[str, str]
    links: Mapping[str, Path]
    env: Mapping[str, str]
    ready_path: str
    loaded: str


@dataclass(frozen=True, slots=True)
class ServingRuntime:
    """A serving runtime and one of its formats."""

    row: RuntimeRow
    format: FormatRow

    @property
    def name(self) -> str:
        """The name, as KServe has it."""
        return self.row.name

    def launch(self, context: LaunchContext) -> Launch:
        """Return how to start a model server. Blocks."""
        values = {key: str(value or "") for key, value in asdict(context).items()}
        values["implementation"] = self.format.implementation
        files = {name: fill_template(content, values) for name, content in self.row.files.items()}
        return Launch(
            command=(*fill_template(self.row.command, values), *context.args),
            files={name: json.dumps(content, indent=2) for name, content in files.items()},
            links=self._links(context),
            env=fill_template(self.row.env, values),
            ready_path=fill_template(self.row.ready, values),
            loaded=fill_template(self.row.loaded, values),
        )

    def check(self, context: LaunchContext, variables: Container[str]) -> None:
        """Refuse a folder that this runtime would misread. Blocks. Raises ModelUnfit.

        Nothing is refused if a variable of the Deploy already names what to read.
        """
        given = any(name in variables for name in self.row.env if name != model_name.VARIABLE)
        if context.model and context.model.is_dir() and not given:
            check_folder(context.model, context.model_name, self.row.settings, self.format)

    def _links(self, context: LaunchContext) -> dict[str, Path]:
        """Return the links into the model's folder: the server reads settings in its own folder."""
        if not (self.row.settings and context.model and context.model.is_dir()):
            return {}
        found = {entry.name: entry for entry in context.model.iterdir()}
        return {n: e for n, e in found.items() if n not in self.row.files and n[0] != "."}


class Runtimes:
    """All serving runtimes of the local cluster."""

    def __init__(self, rows: Sequence[RuntimeRow]) -> None:
        self._all = [ServingRuntime(row, f) for row in rows for f in row.formats]

    @classmethod
    def load(cls, file: Path | None = None) -> Runtimes:
        """Load the operator's runtimes and ours. Raises runtime_table.RuntimesInvalid."""
        return cls(runtime_table.load(file))

    async def select(self, model: ModelPredictor, python: Path) -> ServingRuntime:
        """Return the first runtime that fits, as KServe would, if its package is installed.

        It looks for the package each time, since it may have been installed meanwhile. Raises
        NoRuntime, and OSError if this machine can start no process.
        """
        runtime = self._fitting(model)
        requirement = runtime.format.package
        if requirement and not await _is_installed(runtime, python):
            raise NoRuntime(
                f"the serving environment lacks the package {requirement},"
                f" which {runtime.name} needs for the format {runtime.format.name}",
                f"{_install_command(python, requirement)}; then deploy again",
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
    field: str,
    wanted: str,
    offered: Callable[[ServingRuntime], Iterable[str]],
) -> Sequence[ServingRuntime]:
    """Return the runtimes that offer a value; all of them if it is empty."""
    fitting = [r for r in runtimes if not wanted or wanted in offered(r)]
    if not fitting:
        known = ", ".join(sorted({each for r in runtimes for each in offered(r)}))
        raise NoRuntime(
            f"no serving runtime of this server has the {field} {wanted}",
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
            "make serving; or set MODELSERVICE_SERVING_PYTHON to a Python that has MLServer",
        ) from e


async def has_package(python: Path, requirement: str) -> bool:
    """Report whether a requirement's package is installed for a Python, in any version.

    Takes some 60 ms. Raises OSError if that Python cannot be started.
    """
    package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    process = ChildProcess([str(python), "-I", "-c", _VERSION_OF, package])
    try:
        return await process.wait() == 0
    finally:
        process.kill()


def _install_command(python: Path, requirement: str) -> str:
    return shlex.join([str(python), "-m", "pip", "install", requirement])
