"""Opens the local cluster of a state directory."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from server.adapters.local.cluster import LocalCluster, local_cluster
from server.adapters.local.model_files.fetcher import SizeLimits, fetch
from server.adapters.local.processes.orphans import end_orphans
from server.adapters.local.proxy.port_allocator import PortAllocator
from server.adapters.local.rollouts.load_limiter import LoadLimiter, available_cpus
from server.adapters.local.rollouts.model_server_run import ModelServerConfig
from server.adapters.local.runtimes.runtime_table import RuntimesInvalid
from server.adapters.local.runtimes.runtimes import Runtimes
from server.adapters.local.state_dir import StateDirUnusable, open_state_dir
from server.adapters.local.timeouts import Timeouts
from server.deadline import Deadline

__all__ = ["RuntimesInvalid", "StateDirUnusable", "opened_cluster"]


@asynccontextmanager
async def opened_cluster(
    state_dir: Path,
    deadline: Callable[[], Deadline],
    *,
    python: Path,
    runtimes: Path | None,
    ports: range,
    model_size_limit: int,
    progress_deadline: timedelta,
    environment: Mapping[str, str],
    most_revisions: int,
) -> AsyncIterator[LocalCluster]:
    """Serve the services of a state directory for the length of a block.

    - `deadline`: see `local_cluster`.
    - `python`: the Python of the serving environment.
    - `runtimes`: the operator's own runtimes, a TOML file.
    - `ports`: the ports for new services and for model servers.
    - `model_size_limit`: the most bytes of one model.
    - `environment`: the environment of this process; model servers inherit a part of it.
    - `most_revisions`: the revisions to keep of each service.

    Processes of an earlier server are ended first. Raises StateDirUnusable or RuntimesInvalid.
    """
    _raise_descriptor_limit()
    timeouts = Timeouts(progress_deadline=progress_deadline)
    with open_state_dir(state_dir) as state:
        end_orphans(state.owner)
        config = ModelServerConfig(
            runtimes=Runtimes.load(runtimes),
            python=python,
            fetch=partial(fetch, limits=SizeLimits(bytes=model_size_limit)),
            ports=PortAllocator(ports),
            load_limiter=LoadLimiter(available_cpus(), timeouts.load_slot),
            timeouts=timeouts,
            environment=environment,
            owner=state.owner,
        )
        async with local_cluster(state, config, deadline, most_revisions) as cluster:
            yield cluster


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of descriptors to the hard one: a proxied request takes two.

    The usual soft limit is for programs that use select().
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # On some systems the real limit is lower than the reported one.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
