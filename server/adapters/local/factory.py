"""Opening the local cluster of a state directory, with everything that it runs on."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from server.adapters.local.cluster import LocalCluster, local_cluster
from server.adapters.local.model_files.fetcher import SizeLimits, fetch
from server.adapters.local.processes.orphans import sweep
from server.adapters.local.proxy.port_allocator import Ports
from server.adapters.local.rollouts.load_limiter import Turns, cores
from server.adapters.local.rollouts.model_server_run import Means
from server.adapters.local.runtimes.runtime_table import RuntimesInvalid
from server.adapters.local.runtimes.runtimes import Runtimes
from server.adapters.local.state_dir import StateDirUnusable, open_state_dir
from server.adapters.local.timeouts import Patience
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
) -> AsyncIterator[LocalCluster]:
    """Serve what the directory has, for the length of a block; nothing runs afterwards.

    `python` is the serving environment's, `runtimes` the operator's own table, `ports` what new
    services and model servers may have, `model_size_limit` the most bytes of one model,
    `environment` what model servers inherit a little of; for `deadline` see `local_cluster`.
    What an earlier server left running is ended first. Raises StateDirUnusable or RuntimesInvalid.
    """
    _allow_all_descriptors()
    patience = Patience(progress_deadline=progress_deadline)
    with open_state_dir(state_dir) as state:
        sweep(state.owner)
        means = Means(
            runtimes=Runtimes.load(runtimes),
            python=python,
            fetch=partial(fetch, limits=SizeLimits(bytes=model_size_limit)),
            ports=Ports(ports),
            turns=Turns(cores(), patience.longest_turn),
            patience=patience,
            environment=environment,
            owner=state.owner,
        )
        async with local_cluster(state, means, deadline) as cluster:
            yield cluster


def _allow_all_descriptors() -> None:
    """Every proxied request takes two; the usual soft limit is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems have a lower limit than the one that they tell.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
