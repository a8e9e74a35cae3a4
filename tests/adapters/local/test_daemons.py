"""A process that has left its model server's session, parent and environment ends with it."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from modelservice.v1 import model_service_pb2 as calls

from tests.adapters.local.server_process import PATIENCE_SECONDS, Server, kill, server
from tests.adapters.local.serving import BRISK
from tests.adapters.local.world import eventually, world_of, wrappers_of

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it cannot be found"),
]


def deployed(running: Server, folder: Path, *, tag: str = "1", **orders: Any) -> psutil.Process:
    """The daemon of a model server that is ready."""
    file = folder / f"daemon-{tag}"
    running.wait(rollout_id=running.deploy(folder, tag, daemon=str(file), **orders).rollout_id)
    daemon = psutil.Process(int(file.read_text()))
    ends = time.monotonic() + PATIENCE_SECONDS
    while daemon.environ() or daemon.name() != "sleep":
        assert time.monotonic() < ends
        time.sleep(0.01)
    return daemon


def ends(*processes: psutil.Process) -> None:
    """Wait for it; what does not end is ended here, so that no test leaves it behind."""
    _, alive = psutil.wait_procs(processes, PATIENCE_SECONDS)
    for process in alive:
        process.kill()
    assert not alive


def only_wrapper(state: Path) -> psutil.Process:
    """The wrapper that is left once that of the rollout before has followed its processes."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while len(found := wrappers_of(state)) != 1:
        assert time.monotonic() < ends, found
        time.sleep(0.01)
    return found[0]


def test_after_a_delete_it_is_gone(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        daemon = deployed(running, tmp_path)
        running.stub.Delete(calls.DeleteRequest(name="iris"))
        running.wait_until_gone()
        # Its service is gone only once it is.
        alive = daemon.is_running()
        ends(daemon)
        assert not alive


def test_after_a_delete_it_is_gone_also_where_its_wrapper_was_stopped(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        daemon = deployed(running, tmp_path)
        [wrapper] = wrappers_of(tmp_path / "state")
        wrapper.suspend()
        running.stub.Delete(calls.DeleteRequest(name="iris"))
        running.wait_until_gone()
        alive = daemon.is_running()
        ends(daemon)
        assert not alive


def test_after_its_rollout_was_replaced_or_its_model_server_died_it_is_gone(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        first = deployed(running, tmp_path, tag="1")
        second = deployed(running, tmp_path, tag="2")
        ends(first)
        assert second.is_running()
        wrapper = only_wrapper(tmp_path / "state")
        [model_server] = (p for p in wrapper.children() if p.pid != second.pid)
        model_server.kill()
        ends(second)


def test_as_soon_as_the_server_is_killed_it_is_gone(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        daemon = deployed(running, tmp_path)
        kill(running)
        ends(daemon)


async def test_a_model_server_that_cannot_be_asked_to_end_takes_it_along(tmp_path: Path) -> None:
    file = tmp_path / "daemon"
    async with world_of(tmp_path, replace(BRISK, stop=timedelta(seconds=0.5))) as world:
        await world.deploy(world.model(daemon=str(file), hang=True))
        await eventually("a daemon", file.exists)
        daemon = psutil.Process(int(file.read_text()))
        await world.gone()
        alive = daemon.is_running()
        ends(daemon)
        assert not alive
