"""A server that starts with twenty services: it answers at once, and they come up in turns."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1 import model_service_pb2 as calls

from server.adapters.local.rollouts.load_limiter import available_cpus
from tests.adapters.local.server_process import Server, kill, server
from tests.adapters.local.world import children_of

pytestmark = pytest.mark.processes

SERVICES = 20
SERVING_SECONDS = 2
READY_SECONDS = 40
# A machine that does much else besides is given ten times as long.
PATIENCE = 10
READY = pb.InferenceServiceStatus.STATE_READY


def test_it_serves_at_once_and_brings_them_up_as_many_at_a_time_as_there_are_cores(
    tmp_path: Path,
) -> None:
    names = {f"iris-{number}" for number in range(SERVICES)}
    with server(tmp_path) as first:
        for name in names:
            first.deploy(tmp_path, "slow", name, load_seconds=0.5)
        kill(first)
    _leave_work(tmp_path / "state" / "work")
    begun = time.monotonic()
    with server(tmp_path) as second:
        serving = time.monotonic() - begun
        at_once = _told(second)
        assert {service.name for service in at_once} == names
        assert not all(service.status.state == READY for service in at_once), "SERVING comes first"
        most = _until_all_are_ready(second, begun + PATIENCE * READY_SECONDS)
        ready = time.monotonic() - begun
        assert min(2, available_cpus()) <= most <= available_cpus()
        assert len(children_of(tmp_path / "state")) == SERVICES
        assert not (tmp_path / "state" / "work" / "gone").exists()
    print(f"SERVING after {serving:.1f} s, {SERVICES} READY after {ready:.1f} s")
    assert serving < PATIENCE * SERVING_SECONDS


def _told(server: Server) -> list[Any]:
    return list(server.stub.List(calls.ListRequest(page_size=SERVICES)).services)


def _until_all_are_ready(server: Server, ends: float) -> int:
    """How many were seen loading at once, at most."""
    most = 0
    while coming := [s.status for s in _told(server) if s.status.state != READY]:
        most = max(most, sum(status.message == "loading the model" for status in coming))
        assert time.monotonic() < ends, coming
        time.sleep(0.02)
    return most


def _leave_work(work: Path) -> None:
    """What a service that is gone had, when the server was killed."""
    model = work / "gone" / "1" / "model"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(b"x")
