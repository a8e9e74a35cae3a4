"""Child processes of a server: what they print is read, and no other file is closed."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from server.adapters.kserve.connection.exec_plugin import ExecPlugin
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable
from server.child_process import ChildProcess, OutputPipe
from tests.patience import PATIENCE_SECONDS

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CREDENTIAL = """#!/bin/sh
echo '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", \
"status": {"token": "abc"}}'
"""


@pytest.fixture(params=LOOPS)
def in_loop(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine in a loop of its own; the server's is uvloop's."""

    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(work)

    def in_thread(work: Coroutine[Any, Any, None]) -> None:
        # In the main thread the loop would take over the signals of the tests.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(run, work).result()

    return in_thread


def plugin_of(folder: Path, script: str) -> ExecPlugin:
    """A plugin that runs this script."""
    program = folder / "plugin"
    program.write_text(script)
    program.chmod(0o755)
    return ExecPlugin(
        "users[0].exec",
        str(program),
        api_version="client.authentication.k8s.io/v1",
        interactive_mode="Never",
    )


def test_all_that_a_process_prints_is_received_and_then_its_end(
    in_loop: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def read() -> None:
        received, ended = bytearray(), asyncio.Event()
        pipe = OutputPipe(received.extend, ended.set)
        script = "print('x' * 1_000_000, end='')"
        process = ChildProcess([sys.executable, "-c", script], stdout=pipe.child_end)
        os.close(pipe.child_end)
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
        assert received == b"x" * 1_000_000
        assert await process.wait() == 0

    in_loop(read())


def test_a_cancelled_plugin_closes_no_other_file(
    in_loop: Callable[[Coroutine[Any, Any, None]], None], tmp_path: Path
) -> None:
    plugin = plugin_of(tmp_path, CREDENTIAL)

    async def cancel(after_steps: int) -> None:
        running = asyncio.create_task(plugin.run({}, os.environ))
        for _ in range(after_steps):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    async def look() -> None:
        assert (await plugin.run({}, os.environ)).token == "abc"
        for steps in range(1, 6):
            await cancel(steps)
            opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(6)]
            gc.collect()
            for descriptor in opened:
                os.fstat(descriptor)
                os.close(descriptor)

    in_loop(look())


def test_a_plugin_that_prints_too_much_leaves_no_task(
    in_loop: Callable[[Coroutine[Any, Any, None]], None], tmp_path: Path
) -> None:
    # A child that keeps the pipes open.
    plugin = plugin_of(tmp_path, "#!/bin/sh\nsleep 60 &\nexec head -c 3000000 /dev/zero\n")

    async def look() -> None:
        with pytest.raises(ConfigurationUnusable, match="printed more than"):
            await plugin.run({}, os.environ)
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_loop(look())


async def test_a_process_whose_end_nobody_could_wait_for_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = list[subprocess.Popen[bytes]]()

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="no thread can be started"):
        ChildProcess(["sleep", "3600"])
    [process] = started
    assert not psutil.pid_exists(process.pid)
