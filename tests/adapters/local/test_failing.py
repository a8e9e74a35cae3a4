"""Failures of local model servers: each to its reason, with the line of the log that names it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from modelservice.v1.model_service_pb2 import WatchStatusRequest

from lab.port_blocks import own_block
from server.adapters.local import supervisor
from server.adapters.local.proxy.port_allocator import PortAllocator
from server.domain.rollout.status import FailureReason, State
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
)
from tests.adapters.local.server_process import server
from tests.adapters.local.serving import BRISK
from tests.adapters.local.world import (
    IRIS,
    World,
    children_of,
    eventually,
    failure_of,
    servers_of,
    world_of,
)
from tests.alone import clean_environment
from tests.patience import PATIENCE_SECONDS


@pytest.mark.parametrize("code", [0, 1, 3])
async def test_an_exit_before_ready_is_a_failed_load_whatever_its_code(
    world: World, code: int
) -> None:
    spec = world.model(exit=code, says="ValueError: EOF: reading array data")
    failure = await failure_of(world, spec)
    assert failure.reason is FailureReason.MODEL_LOAD
    assert failure.exit_code == code
    assert failure.retrying
    assert "ValueError: EOF: reading array data" in failure.log_lines
    assert f"exited with {code}" in failure.message
    assert "EOF: reading array data" in failure.message


@pytest.mark.processes
def test_a_server_that_inherits_sigchld_ignored_reports_exit_codes_too(tmp_path: Path) -> None:
    (tmp_path / "started_so.py").write_text(
        """import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "server"])"""
    )
    path = f"{tmp_path}{os.pathsep}{clean_environment()['PYTHONPATH']}"
    with server(tmp_path, "started_so", PYTHONPATH=path) as running:
        running.deploy(tmp_path, "1", exit=7)
        watch = running.stub.WatchStatus(WatchStatusRequest(name="iris"), timeout=PATIENCE_SECONDS)
        failure = next(f for m in watch if (f := m.service.status.failure).reason)
        assert failure.exit_code == 7


async def test_what_fails_is_tried_again_until_it_is_right(world: World, tmp_path: Path) -> None:
    spec = world.model(exit=1)
    first = await failure_of(world, spec)
    assert first.restart_count == 0
    again = await world.when(
        "another attempt", lambda s: s.status.failure and s.status.failure.restart_count >= 2
    )
    assert again.status.failure
    assert again.status.failure.first_seen_time == first.first_seen_time
    [copied] = (tmp_path / "state" / "work").rglob("1.json")
    copied.write_text("{}")
    ready = await world.until(State.READY)
    assert ready.status.failure is None


async def test_a_server_whose_model_never_gets_ready_is_reported_while_it_runs(
    world: World,
) -> None:
    failure = await failure_of(world, world.model(unready=True, says="iris has loaded"))
    assert failure.reason is FailureReason.MODEL_LOAD
    assert failure.exit_code is None
    assert "iris has loaded" in failure.log_lines
    assert not [line for line in failure.log_lines if "/ready" in line or "/v2" in line]
    assert len(servers_of(world)) == 1


async def test_a_load_that_hangs_and_is_deaf_to_signals_ends_at_the_deadline(
    tmp_path: Path,
) -> None:
    # On a busy machine the server takes seconds to its first line.
    timeouts = replace(BRISK, progress_deadline=timedelta(seconds=5), stop=timedelta(seconds=0.5))
    async with world_of(tmp_path, timeouts) as world:
        failure = await failure_of(world, world.model(hang=True, says="reading weights"))
        assert failure.reason is FailureReason.PROGRESS_DEADLINE
        assert "5 s" in failure.message
        assert "reading weights" in failure.log_lines
        await world.gone()
        assert servers_of(world) == []


async def test_a_deaf_load_does_not_keep_others_from_loading(tmp_path: Path) -> None:
    timeouts = replace(BRISK, load_slot=timedelta(seconds=1), stop=timedelta(seconds=0.5))
    async with world_of(tmp_path, timeouts) as world:
        for number in range(3):
            await world.deploy(world.model("hang", hang=True), IRIS._replace(name=f"h-{number}"))
        await world.ready(world.model("good"))


async def test_a_file_that_is_not_there_fails_the_download(world: World, tmp_path: Path) -> None:
    spec = InferenceServiceSpec(ModelPredictor(ModelFormat("test"), str(tmp_path / "absent")))
    failure = await failure_of(world, spec)
    assert failure.reason is FailureReason.STORAGE_DOWNLOAD
    assert "absent" in failure.message
    (tmp_path / "absent").write_text("{}")
    await world.until(State.READY)


async def test_a_server_that_dies_once_is_started_again_and_trusted_when_it_stays(
    world: World,
) -> None:
    ready = await world.ready(world.model())
    [server] = servers_of(world)
    server.kill()
    down = await world.when("its death", lambda s: s.status.failure)
    assert down.status.state is State.PROGRESSING
    assert down.status.failure
    assert down.status.failure.reason is FailureReason.CRASH_LOOP
    assert down.status.failure.exit_code == 137
    assert "SIGKILL" in down.status.failure.message
    again = await world.until(State.READY)
    assert again.status.failure is None
    assert again.status.url == ready.status.url
    assert await world.generation_of(again) == 1


async def test_a_server_that_keeps_dying_is_a_crash_loop(tmp_path: Path) -> None:
    timeouts = replace(BRISK, stable=timedelta(seconds=60), longest_retry=timedelta(seconds=0.5))
    async with world_of(tmp_path, timeouts) as world:
        service = await world.ready(world.model())
        await die(world, service.status.url)
        up = await world.when("up again", lambda s: s.status.serving and s.status.failure)
        assert up.status.state is State.PROGRESSING, "not trusted yet"
        await die(world, service.status.url)
        failed = await world.until(State.FAILED)
        assert failed.status.failure
        assert failed.status.failure.reason is FailureReason.CRASH_LOOP
        assert failed.status.failure.restart_count == 1
        assert failed.status.latest_ready_generation == 1
        await world.when("up again", lambda s: s.status.serving)


async def die(world: World, url: str) -> None:
    """Have the model server kill itself in the middle of a request."""
    async with world.session.post(f"{url}/die") as response:
        assert response.status == 503
        assert "closed the connection" in await response.text()


async def test_a_stranger_on_its_port_is_never_taken_for_it(tmp_path: Path) -> None:
    with stranger() as (taken, asked):
        ports = RiggedPorts({2: taken})
        async with world_of(tmp_path, ports=ports) as world:
            ready = await world.ready(world.model(load_seconds=0.5))
            assert (await world.ask(ready))["name"].startswith("model-serving/iris/1/")
            assert ports.handed_out == 3, "the address, the port that was taken, and another"
            told = world.told.history(IRIS)
            assert not [s for s in told if isinstance(s, InferenceService) and s.status.failure]
    assert set(asked) == {"/v2"}


class RiggedPorts(PortAllocator):
    """An allocator that gives out ports in use, by the number of the allocation."""

    def __init__(self, taken: dict[int, int]) -> None:
        super().__init__(own_block().ports)
        self.handed_out = 0
        self._taken = taken

    def allocate(self) -> int:
        self.handed_out += 1
        return self._taken.get(self.handed_out) or super().allocate()


@contextmanager
def stranger(name: str = "somebody/else") -> Iterator[tuple[int, list[str]]]:
    """A server of the same protocol that is not ours: its port, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"name": name}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, _format: str, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_the_address_is_taken_back_from_another_process(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        before = await world.ready(world.model())
    port = int(before.status.url.rpartition(":")[2])
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        async with world_of(tmp_path) as world:
            failed = await world.until(State.FAILED)
            assert failed.status.failure
            assert failed.status.failure.reason is FailureReason.INGRESS
            assert before.status.url in failed.status.failure.message
            thief.close()
            after = await world.until(State.READY)
            assert after.status.url == before.status.url
            assert await world.generation_of(after) == 1


async def test_values_that_look_secret_are_masked_in_the_log(world: World) -> None:
    env = {"API_TOKEN": "sesame-1234"}
    spec = replace(world.model(exit=1, says="Error: cannot log in with sesame-1234"), env=env)
    failure = await failure_of(world, spec)
    assert any("cannot log in with ***" in line for line in failure.log_lines)
    assert "sesame" not in repr(failure)


async def test_endless_lines_and_bytes_that_are_no_text_do_no_harm(world: World) -> None:
    failure = await failure_of(world, world.model(exit=1, says="x" * 300_000 + "\udcff"))
    assert failure.reason is FailureReason.MODEL_LOAD
    assert sum(len(line) for line in failure.log_lines) <= 4096


async def test_a_model_server_sees_what_the_spec_gives_and_little_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(world.model(), env={"THREADS": "2", "WORKERS": "$(THREADS)-$$(THREADS)-$(X)"})
    service = await world.ready(spec)
    seen = await world.ask(service, "/environment")
    assert (seen["THREADS"], seen["WORKERS"]) == ("2", "2-$(THREADS)-$(X)")
    assert not [name for name in seen if name.startswith(("PYTHON", "VIRTUAL_ENV", "KUBE"))]


async def test_a_bug_takes_the_cluster_down_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        await _meet_a_bug(tmp_path, monkeypatch)
    assert raised.value.subgroup(ZeroDivisionError)


async def _meet_a_bug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_of(folder) as world:
        service = await world.ready(world.model())
        monkeypatch.setattr(supervisor, "Observed", lambda *_: 1 / 0)
        await die(world, service.status.url)
        await eventually("the end", lambda: not children_of(folder / "state"))
