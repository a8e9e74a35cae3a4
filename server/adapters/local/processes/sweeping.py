"""Ending what an earlier server left running."""

from __future__ import annotations

import psutil
import structlog

from server.adapters.local.processes.environment import MARKER
from server.adapters.local.storing import StateDirUnusable

PATIENCE_SECONDS = 10.0

log = structlog.get_logger(__name__)


def sweep(owner: str) -> int:
    """End every process that carries this owner's marker; how many there were.

    For before anything is started. Processes are told apart by id and start time, so that none that
    took over an id is touched. Raises StateDirUnusable where one cannot be ended.
    """
    left = [process for process in psutil.process_iter() if _is_of(process, owner)]
    for process in left:
        _kill(process)
    _, alive = psutil.wait_procs(left, PATIENCE_SECONDS)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise StateDirUnusable(f"model servers of an earlier run do not end: {pids}")
    if left:
        log.info("ended what an earlier run left", processes=len(left))
    return len(left)


def _is_of(process: psutil.Process, owner: str) -> bool:
    try:
        return process.environ().get(MARKER) == owner
    except (psutil.Error, OSError):
        return False  # another user's, or gone by now


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
