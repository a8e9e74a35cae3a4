"""Ends the processes of an earlier server."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import structlog

from server.adapters.local.processes.exec_wrapper import CHILD_OWNER, WRAPPER_OWNER, ask_to_end
from server.adapters.local.state_dir import StateDirUnusable

TIMEOUT_SECONDS = 10.0
PASSES = 20

log = structlog.get_logger(__name__)


def end_orphans(owner: str) -> int:
    """End every process of this owner, and on Linux its descendants. Return their number.

    Call it before any process is started. psutil compares start times, so that a new process with
    an old id is left alone. Raises StateDirUnusable if a process cannot be ended.
    """
    ended = 0
    # The next pass finds what was forked meanwhile.
    for _ in range(PASSES):
        everything = list(psutil.process_iter())
        wrappers = [process for process in everything if _is_of(process, WRAPPER_OWNER, owner)]
        left = [process for process in everything if _is_of(process, CHILD_OWNER, owner)]
        if not wrappers + left:
            break
        _end_wrappers(wrappers)
        _end(wrappers + left)
        ended += len(left)
    else:
        raise StateDirUnusable("model servers of an earlier run keep starting others")
    if ended:
        log.info("ended what an earlier run left", processes=ended)
    return ended


def _end_wrappers(wrappers: Sequence[psutil.Process]) -> None:
    """Let the wrappers kill their descendants, which may carry no mark of the owner."""
    for wrapper in wrappers:
        if wrapper.is_running():
            ask_to_end(wrapper.pid)
    psutil.wait_procs(wrappers, TIMEOUT_SECONDS)


def _end(left: Sequence[psutil.Process]) -> None:
    for process in left:
        _kill(process)
    _, alive = psutil.wait_procs(left, TIMEOUT_SECONDS)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise StateDirUnusable(f"model servers of an earlier run do not end: {pids}")


def _is_of(process: psutil.Process, variable: str, owner: str) -> bool:
    try:
        return process.environ().get(variable) == owner
    except (psutil.Error, OSError):
        return False  # another user's, or ended


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as e:
        raise StateDirUnusable(
            f"this user may not end a model server of an earlier run: {process.pid}"
        ) from e
