"""What an earlier server left is ended to the last process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from server.adapters.local.processes import exec_wrapper, orphans
from server.adapters.local.processes.exec_wrapper import CHILD_OWNER, WRAPPER_OWNER
from server.adapters.local.processes.model_process import ModelProcess
from server.adapters.local.state_dir import StateDirUnusable
from tests.adapters.local.world import eventually
from tests.patience import PATIENCE_SECONDS


def test_what_is_forked_while_others_are_ended_is_ended_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = uuid.uuid4().hex
    started = [_marked(owner)]
    kill = orphans._kill

    def late(process: psutil.Process) -> None:
        if len(started) < 3:
            started.append(_marked(owner))
        kill(process)

    monkeypatch.setattr(orphans, "_kill", late)
    try:
        assert orphans.end_orphans(owner) == 3
        for process in started:
            process.wait(10)
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_process_that_may_not_be_ended_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = uuid.uuid4().hex
    process = _marked(owner)

    def denied(_: psutil.Process) -> None:
        raise psutil.AccessDenied

    try:
        with monkeypatch.context() as patched:
            patched.setattr(psutil.Process, "kill", denied)
            with pytest.raises(StateDirUnusable, match=str(process.pid)):
                orphans.end_orphans(owner)
    finally:
        process.kill()
        process.wait()


def _marked(owner: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "3600"], env={**os.environ, CHILD_OWNER: owner})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it cannot be found")
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_daemon_without_the_mark_is_ended_by_the_wrapper_that_is_left(
    tmp_path: Path, state: str
) -> None:
    owner = uuid.uuid4().hex
    started = (sys.executable, "-I", "-S", exec_wrapper.__file__, str(os.getpid()))
    script = "setsid env -i sh -c 'echo $$ >new; mv new pid; exec sleep 3600' & sleep 3600"
    wrapper = subprocess.Popen(
        [*started, "sh", "-c", script], cwd=tmp_path, env={**os.environ, WRAPPER_OWNER: owner}
    )
    try:
        ends = time.monotonic() + 10
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < ends
            time.sleep(0.01)
        daemon = int((tmp_path / "pid").read_text())
        if state == "stopped":
            wrapper.send_signal(signal.SIGSTOP)
        assert orphans.end_orphans(owner)
        assert _has_ended(daemon)
        wrapper.wait(10)
    finally:
        wrapper.kill()
        wrapper.wait()


async def test_what_a_server_started_ends_as_soon_as_it_does(tmp_path: Path) -> None:
    script = "sleep 3600 & echo $! > pid"
    process = ModelProcess.start(["sh", "-c", script], tmp_path, dict(os.environ))
    try:
        assert await asyncio.wait_for(process.exited(), PATIENCE_SECONDS) == 0
        pid = int((tmp_path / "pid").read_text())
        await eventually("its end", lambda: _has_ended(pid))
    finally:
        await process.end(timedelta(seconds=1))


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
