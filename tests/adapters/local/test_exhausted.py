"""A machine that has nothing more to give refuses what is new; what runs goes on."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.port_blocks import own_block
from server.adapters.local.proxy.port_allocator import PortAllocator
from server.adapters.local.proxy.service_address import ServiceAddress
from server.deadline import Deadline
from server.domain.errors import ClusterUnavailable
from server.domain.rollout.status import FailureReason, State
from tests.adapters.local.server_process import server
from tests.adapters.local.world import IRIS, World, servers_of
from tests.patience import PATIENCE_SECONDS


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Those that are open stay."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_a_service_is_refused_and_what_died_comes_back_later(
    world: World,
) -> None:
    ready = await world.ready(world.model())
    spec, other = world.model("2"), IRIS._replace(name="other")
    [running] = servers_of(world)
    with no_more_descriptors():
        with pytest.raises(ClusterUnavailable, match="Too many open files"):
            await world.deploy(spec, other)
        os.kill(running.pid, signal.SIGKILL)
        failed = await world.until(State.FAILED)
        assert failed.status.failure
        assert failed.status.failure.reason is not FailureReason.NO_RUNTIME
        assert "Too many open files" in failed.status.failure.message
    await world.until(State.READY)
    await world.ready(spec, other)
    assert await world.generation_of(ready) == 1


@pytest.mark.parametrize("thread", ["fetching", "wait for"])
async def test_without_threads_a_rollout_fails_and_what_runs_goes_on(
    thread: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = await world.ready(world.model())
    spec, other = world.model("2"), IRIS._replace(name="other")
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith(thread):
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        await world.deploy(spec, other)
        failed = await world.until(State.FAILED, key=other)
        assert failed.status.failure
        assert "no thread can be started" in failed.status.failure.message
        assert await world.generation_of(ready) == 1
    await world.until(State.READY, key=other)


async def test_without_descriptors_an_address_reports_its_failure_and_listens_later() -> None:
    address, changes = (
        ServiceAddress(PortAllocator(own_block().ports).allocate(), lambda: ""),
        asyncio.Event(),
    )
    with no_more_descriptors():
        holding = asyncio.create_task(address.serve(changes.set))
        await asyncio.wait_for(changes.wait(), PATIENCE_SECONDS)
        assert address.failure
        assert address.failure.error.strerror == "Too many open files"
    await asyncio.wait_for(holding, PATIENCE_SECONDS)
    assert address.failure is None
    await address.close(Deadline.after(0))


@pytest.mark.processes
def test_the_server_takes_all_the_descriptors_that_it_may_have(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        with server(tmp_path) as running:
            limits = Path(f"/proc/{running.process.pid}/limits")
            if not limits.exists():
                pytest.skip("only Linux tells another process's limits")
            [line] = [row for row in limits.read_text().splitlines() if "open files" in row]
            assert line.split()[3:5] == [str(hard)] * 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
