"""Ending what an earlier server left running."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import structlog

from server.adapters.local.processes.exec_wrapper import MARKER, WRAPPER_MARKER, ask_to_end
from server.adapters.local.state_dir import StateDirUnusable

PATIENCE_SECONDS = 10.0
PASSES = 20

log = structlog.get_logger(__name__)


def sweep(owner: str) -> int:
    """End every process that carries this owner's marker, and on Linux what they started; how many
    there were.

    For before anything is started. Processes are told apart by id and start time, so that none that
    took over an id is touched. Raises StateDirUnusable where one cannot be ended.
    """
    ended = 0
    # What forks while others are ended is found by the next pass.
    for _ in range(PASSES):
        everything = list(psutil.process_iter())
        wrappers = [process for process in everything if _is_of(process, WRAPPER_MARKER, owner)]
        left = [process for process in everything if _is_of(process, MARKER, owner)]
        if not wrappers + left:
            break
        _let_end(wrappers)
        _end(wrappers + left)
        ended += len(left)
    else:
        raise StateDirUnusable("model servers of an earlier run start others again and again")
    if ended:
        log.info("ended what an earlier run left", processes=ended)
    return ended


def _let_end(wrappers: Sequence[psutil.Process]) -> None:
    """Let them kill their descendants: of those that carry no marker, nobody else knows."""
    for wrapper in wrappers:
        if wrapper.is_running():
            ask_to_end(wrapper.pid)
    psutil.wait_procs(wrappers, PATIENCE_SECONDS)


def _end(left: Sequence[psutil.Process]) -> None:
    for process in left:
        _kill(process)
    _, alive = psutil.wait_procs(left, PATIENCE_SECONDS)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise StateDirUnusable(f"model servers of an earlier run do not end: {pids}")


def _is_of(process: psutil.Process, marker: str, owner: str) -> bool:
    try:
        return process.environ().get(marker) == owner
    except (psutil.Error, OSError):
        return False  # another user's, or gone by now


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as e:
        raise StateDirUnusable(
            f"a model server of an earlier run may not be ended by this user: {process.pid}"
        ) from e
