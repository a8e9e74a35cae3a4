"""A stop ends, whatever hangs, within the time that it is given."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from server.adapters.local.state_dir import StateDir
from server.deadline import Deadline
from server.domain.errors import ClusterUnavailable
from server.domain.rollout.status import State
from server.domain.service.commands import Delete
from server.domain.service.inference_service import ServiceKey
from tests.adapters.local.server_process import server
from tests.adapters.local.world import IRIS, children_of, eventually, world_of
from tests.alone import clean_environment
from tests.patience import PATIENCE_SECONDS


@pytest.mark.processes
def test_requests_in_flight_and_servers_that_do_not_end_are_cut_by_one_deadline(
    tmp_path: Path,
) -> None:
    (tmp_path / "model-serving.deaf").touch()
    arrived = tmp_path / "arrived"
    with server(tmp_path, MODELSERVICE_STOP_GRACE="2") as running:
        running.deploy(tmp_path, "deaf", "deaf", hold=str(tmp_path))
        running.deploy(tmp_path, "slow", "slow", predict_seconds=60, arrived=str(arrived))
        url = running.wait("slow").status.url
        running.wait("deaf")
        calling = threading.Thread(target=_post, args=(url,), daemon=True)
        calling.start()
        await_made(arrived)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        assert time.monotonic() - began < 10 * 2
        calling.join(PATIENCE_SECONDS)
        assert not calling.is_alive()
    assert children_of(tmp_path / "state") == []


@pytest.mark.processes
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_server_whose_end_is_held_up_ends_at_a_second_signal(
    tmp_path: Path, second: signal.Signals
) -> None:
    held_up = tmp_path / "held-up"
    # Python imports it before all else.
    (tmp_path / "sitecustomize.py").write_text(
        f"""import atexit, pathlib, time
@atexit.register
def hold_up():
    pathlib.Path({str(held_up)!r}).touch()
    time.sleep(3600)"""
    )
    path = f"{tmp_path}{os.pathsep}{clean_environment()['PYTHONPATH']}"
    with server(tmp_path, PYTHONPATH=path) as running:
        running.process.send_signal(signal.SIGTERM)
        await_made(held_up)
        running.process.send_signal(second)
        assert running.running.join() == 128 + second


def await_made(file: Path) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not file.exists():
        assert time.monotonic() < ends, file
        time.sleep(0.02)


def _post(url: str) -> None:
    try:
        urllib.request.urlopen(f"{url}/v2/models/slow/infer", data=b"x", timeout=60).close()
    except (urllib.error.URLError, OSError):
        return


async def test_what_is_answered_in_time_is_waited_for(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        arrived = tmp_path / "arrived"
        service = await world.ready(world.model(predict_seconds=1, arrived=str(arrived)))
        url = f"{service.status.url}/v2/models/iris/infer"
        call = asyncio.create_task(_answered(world.session, url))
        await eventually("a request in flight", arrived.exists)
        world.cluster.stop(Deadline.after(40))
        assert await call == 200


async def _answered(session: aiohttp.ClientSession, url: str) -> int:
    async with session.post(url) as response:
        return response.status


async def test_a_record_that_cannot_be_removed_is_no_reason_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    def remove(_: StateDir, key: ServiceKey) -> None:
        tried.set()
        raise ClusterUnavailable(f"no: {key}")

    async with asyncio.timeout(30):
        with monkeypatch.context() as patched:
            async with world_of(tmp_path) as world:
                patched.setattr(StateDir, "remove", remove)
                await world.deploy(world.model())
                await world.cluster.delete(Delete(IRIS))
                await tried.wait()
                assert (await world.until(State.DELETING)).delete_time
        async with world_of(tmp_path) as world:
            await world.told.until("gone", lambda: world.told.latest(IRIS) is None)
            assert list((tmp_path / "state" / "services").iterdir()) == []
