"""One run of a model server: its port, its files and its process."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from server.adapters.local.model_files.fetcher import Progress
from server.adapters.local.processes.model_process import ModelProcess
from server.adapters.local.processes.process_environment import (
    child_environment,
    expand,
    expand_env,
    output_gate,
)
from server.adapters.local.proxy.port_allocator import NoPortFree, PortAllocator
from server.adapters.local.proxy.reverse_proxy import ProbeResult, Upstream
from server.adapters.local.rollouts.failure_messages import (
    AttemptFailed,
    failure,
    port_failure,
    shown_lines,
    start_failure,
)
from server.adapters.local.rollouts.load_limiter import LoadLimiter
from server.adapters.local.runtimes.model_folder import ModelUnfit
from server.adapters.local.runtimes.runtimes import Launch, LaunchContext, Runtimes, ServingRuntime
from server.adapters.local.stored_service import GenerationSpec
from server.adapters.local.timeouts import Timeouts
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.status import FailureReason
from server.domain.service.model_name import model_name

log = structlog.get_logger(__name__)


class Fetch(Protocol):
    """`fetcher.fetch`, or a test's."""

    async def __call__(self, uri: str, into: Path, on_progress: Callable[[Progress], None]) -> Path:
        """Download the model into a folder. Raises FetchFailed."""
        ...


@dataclass(frozen=True, slots=True)
class ModelServerConfig:
    """The settings and shared parts of all model servers.

    `environment` is that of this process. `owner` identifies the state directory in the environment
    of its model servers.
    """

    runtimes: Runtimes
    python: Path
    fetch: Fetch
    ports: PortAllocator
    load_limiter: LoadLimiter
    timeouts: Timeouts
    environment: Mapping[str, str]
    owner: str


@dataclass(frozen=True, slots=True)
class Run:
    """A model server that runs."""

    process: ModelProcess
    upstream: Upstream
    server_name: str
    ready_path: str
    loaded: str
    output: OutputGate

    async def probe(self) -> ProbeResult:
        """Ask this very server whether its model is ready."""
        return await self.upstream.probe(self.server_name, self.ready_path)

    async def has_loaded(self) -> bool:
        """Report whether it has logged the end of the load; some servers never do."""
        return bool(self.loaded) and self.loaded in await self.process.last_output()

    async def log_lines(self) -> list[str]:
        """Return the lines of its output that may be shown."""
        noise = (f" {self.ready_path} ", " /v2 ")
        return shown_lines(await self.process.last_output(), noise, self.output)


@asynccontextmanager
async def running(
    spec: GenerationSpec,
    runtime: ServingRuntime,
    model: Path | None,
    folder: Path,
    config: ModelServerConfig,
) -> AsyncIterator[Run]:
    """Run a model server for the length of a block. Raises AttemptFailed."""
    with _port(config.ports) as port:
        server_name = f"{spec.key}/{spec.generation}/{secrets.token_hex(8)}"
        variables = expand_env(spec.spec.env)
        args = tuple(expand(argument, variables) for argument in spec.model.args)
        name = model_name(spec.key.name, variables, args)
        context = LaunchContext(config.python, folder, port, server_name, name, model, args)
        launch = await _launch(runtime, context, variables)
        variables = {**launch.env, **variables}
        environment = child_environment(config.environment, variables, config.owner)
        upstream = Upstream(port, spec.spec.request_timeout)
        try:
            async with _process(spec, launch, folder, environment, config) as process:
                output = output_gate(environment)
                yield Run(process, upstream, server_name, launch.ready_path, launch.loaded, output)
        finally:
            await upstream.close()


async def _launch(
    runtime: ServingRuntime, context: LaunchContext, variables: Mapping[str, str]
) -> Launch:
    def checked() -> Launch:
        runtime.check(context, variables)
        return runtime.launch(context)

    try:
        return await asyncio.to_thread(checked)
    except ModelUnfit as e:
        raise AttemptFailed(failure(FailureReason.MODEL_LOAD, e.message, e.remedy)) from e
    except OSError as e:
        raise AttemptFailed(start_failure(e)) from e


@contextmanager
def _port(ports: PortAllocator) -> Iterator[int]:
    try:
        port = ports.allocate()
    except NoPortFree as e:
        raise AttemptFailed(port_failure(e)) from e
    except OSError as e:
        raise AttemptFailed(start_failure(e)) from e
    try:
        yield port
    finally:
        ports.release(port)


@asynccontextmanager
async def _process(
    spec: GenerationSpec,
    launch: Launch,
    folder: Path,
    environment: Mapping[str, str],
    config: ModelServerConfig,
) -> AsyncIterator[ModelProcess]:
    try:
        # In a thread: a model may have left gigabytes there.
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await _written(launch, folder)
        process = ModelProcess.start(launch.command, folder, environment)
    except OSError as e:
        raise AttemptFailed(start_failure(e)) from e
    log.info("started", service=str(spec.key), generation=spec.generation, pid=process.pid)
    try:
        yield process
    finally:
        await process.end(config.timeouts.stop)


async def _written(launch: Launch, folder: Path) -> None:
    """Write the files in a thread: a model's folder may have thousands of entries to link to."""
    writing = asyncio.create_task(asyncio.to_thread(_write, launch, folder), name="writing files")
    writing.add_done_callback(_retrieved)
    try:
        await asyncio.shield(writing)
    finally:
        # A cancelled caller removes the folder, so nothing may be written into it later.
        await asyncio.wait({writing})


def _retrieved(task: asyncio.Task[None]) -> None:
    """Retrieve the error, so that asyncio does not log it when the caller was cancelled."""
    if not task.cancelled():
        task.exception()


def _write(launch: Launch, folder: Path) -> None:
    """Create a server's folder with its files and links."""
    folder.mkdir(mode=0o700, parents=True)
    for name, target in launch.links.items():
        (folder / name).symlink_to(target)
    for name, content in launch.files.items():
        file = folder / name
        file.touch(mode=0o600)
        file.write_text(content)
