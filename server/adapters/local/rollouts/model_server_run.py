"""One run of a model server: its port, files and process, for as long as it lasts."""

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
    expanded,
    output_gate,
)
from server.adapters.local.proxy.port_allocator import NoPortFree, Ports
from server.adapters.local.proxy.reverse_proxy import Answer, Upstream
from server.adapters.local.rollouts.failure_messages import (
    Failed,
    failure,
    no_port,
    unwritable,
    worth_showing,
)
from server.adapters.local.rollouts.load_limiter import Turns
from server.adapters.local.runtimes.model_folder import ModelUnfit
from server.adapters.local.runtimes.runtimes import Launch, Place, Runtimes, ServingRuntime
from server.adapters.local.stored_service import Wish
from server.adapters.local.timeouts import Patience
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.status import FailureReason
from server.domain.service.model_name import model_name

log = structlog.get_logger(__name__)


class Fetch(Protocol):
    """`fetching.fetch`, or a test's."""

    async def __call__(self, uri: str, into: Path, tell: Callable[[Progress], None]) -> Path:
        """Bring the model into a folder. Raises FetchFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What model servers are run with; the same for all.

    `environment` is this process's own, and `owner` what marks its children.
    """

    runtimes: Runtimes
    python: Path
    fetch: Fetch
    ports: Ports
    turns: Turns
    patience: Patience
    environment: Mapping[str, str]
    owner: str


@dataclass(frozen=True, slots=True)
class Run:
    """A model server that was started."""

    process: ModelProcess
    upstream: Upstream
    server_name: str
    ready_path: str
    loaded: str
    output: OutputGate

    async def answers(self) -> Answer:
        """What this server itself says of its model."""
        return await self.upstream.answers(self.server_name, self.ready_path)

    async def has_loaded(self) -> bool:
        """Whether it says that the load has ended, of those that do."""
        return bool(self.loaded) and self.loaded in await self.process.last_words()

    async def words(self) -> list[str]:
        """What is worth showing of what it has written."""
        noise = (f" {self.ready_path} ", " /v2 ")
        return worth_showing(await self.process.last_words(), noise, self.output)


@asynccontextmanager
async def running(
    wish: Wish, runtime: ServingRuntime, model: Path | None, folder: Path, means: Means
) -> AsyncIterator[Run]:
    """A model server of its own for a block, and nothing of it afterwards. Raises Failed."""
    with _port(means.ports) as port:
        server_name = f"{wish.key}/{wish.generation}/{secrets.token_hex(8)}"
        variables = expanded(wish.spec.env)
        args = tuple(expand(argument, variables) for argument in wish.model.args)
        name = model_name(wish.key.name, variables, args)
        place = Place(means.python, folder, port, server_name, name, model, args)
        launch = await _launch(runtime, place, variables)
        variables = {**launch.env, **variables}
        environment = child_environment(means.environment, variables, means.owner)
        upstream = Upstream(port, wish.spec.request_timeout)
        try:
            async with _process(wish, launch, folder, environment, means) as process:
                output = output_gate(environment)
                yield Run(process, upstream, server_name, launch.ready_path, launch.loaded, output)
        finally:
            await upstream.close()


async def _launch(runtime: ServingRuntime, place: Place, variables: Mapping[str, str]) -> Launch:
    def looked() -> Launch:
        runtime.check(place, variables)
        return runtime.launch(place)

    try:
        return await asyncio.to_thread(looked)
    except ModelUnfit as e:
        raise Failed(failure(FailureReason.MODEL_LOAD, e.message, e.remedy)) from e
    except OSError as e:
        raise Failed(unwritable(e)) from e


@contextmanager
def _port(ports: Ports) -> Iterator[int]:
    try:
        port = ports.allot()
    except NoPortFree as e:
        raise Failed(no_port(e)) from e
    except OSError as e:
        raise Failed(unwritable(e)) from e
    try:
        yield port
    finally:
        ports.release(port)


@asynccontextmanager
async def _process(
    wish: Wish, launch: Launch, folder: Path, environment: Mapping[str, str], means: Means
) -> AsyncIterator[ModelProcess]:
    try:
        # A model may have left gigabytes there, and requests must not wait for their end.
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await _written(launch, folder)
        process = await ModelProcess.start(launch.command, folder, environment)
    except OSError as e:
        raise Failed(unwritable(e)) from e
    log.info("started", service=str(wish.key), generation=wish.generation, pid=process.pid)
    try:
        yield process
    finally:
        await process.end(means.patience.stop)


async def _written(launch: Launch, folder: Path) -> None:
    """Write in a thread, since a model's folder may have thousands of entries to link to."""
    writing = asyncio.create_task(asyncio.to_thread(_write, launch, folder), name="writing files")
    writing.add_done_callback(_retrieved)
    try:
        await asyncio.shield(writing)
    finally:
        # A caller that gives up removes the folder, in which nothing may come to be later.
        await asyncio.wait({writing})


def _retrieved(task: asyncio.Task[None]) -> None:
    """Take note of an error that a caller who has given up is not told."""
    if not task.cancelled():
        task.exception()


def _write(launch: Launch, folder: Path) -> None:
    """Put a server's files and links into its folder, which is not there yet."""
    folder.mkdir(mode=0o700, parents=True)
    for name, target in launch.links.items():
        (folder / name).symlink_to(target)
    for name, content in launch.files.items():
        file = folder / name
        file.touch(mode=0o600)
        file.write_text(content)
