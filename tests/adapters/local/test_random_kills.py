"""Deploys, Deletes and kill -9 in any order: exactly what was acknowledged runs in the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1 import model_service_pb2 as calls

from tests.adapters.local.server_process import Server, kill, server
from tests.adapters.local.world import children_of
from tests.patience import PATIENCE_SECONDS
from tests.seeds import chosen_seed

pytestmark = pytest.mark.processes

NAMES = ("a", "b", "c", "d")


class Written(NamedTuple):
    """What a service was last acknowledged to be: its rollout and the model that it serves."""

    rollout_id: str
    tag: str


class History:
    """What was asked, and what every service may be by now; None: absent."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.may_be: dict[str, set[Written | None]] = {name: {None} for name in NAMES}
        self.step = 0

    def act_until_killed(self, running: Server) -> None:
        """Deploy and delete, one after the other. Raises RpcError once the server is gone."""
        while True:
            self._act(running)

    def _act(self, running: Server) -> None:
        self.step += 1
        name = self.random.choice(NAMES)
        if self.random.random() < 0.3:
            self._delete(running, name)
        else:
            self._deploy(running, name, f"model-{self.step}")

    def settle(self, running: Server) -> None:
        """Learn which of the things that it may be each service is, and that it is one of them."""
        for name in NAMES:
            found = self._found(running, name)
            known = found in self.may_be[name] or self._is_unanswered(name, found)
            assert known, (name, found, self.may_be[name])
            self.may_be[name] = {found}

    def _deploy(self, running: Server, name: str, tag: str) -> None:
        self.may_be[name].add(Written("", tag))  # until the answer comes, either may hold
        try:
            answer = running.deploy(self.folder, tag, name)
        except grpc.RpcError as e:
            if e.code() is not StatusCode.FAILED_PRECONDITION:
                raise
            self.may_be[name].discard(Written("", tag))  # it is being deleted
            return
        self.may_be[name] = {Written(answer.rollout_id, tag)}

    def _delete(self, running: Server, name: str) -> None:
        self.may_be[name].add(None)
        running.stub.Delete(
            calls.DeleteRequest(name=name, allow_missing=True), timeout=PATIENCE_SECONDS
        )
        self.may_be[name] = {None}

    def _is_unanswered(self, name: str, found: Written | None) -> bool:
        return found is not None and Written("", found.tag) in self.may_be[name]

    def _found(self, running: Server, name: str) -> Written | None:
        """The service, once it is not on its way out."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends:
            try:
                service = running.stub.Get(calls.GetRequest(name=name)).service
            except grpc.RpcError as e:
                if e.code() is StatusCode.NOT_FOUND:
                    return None
                raise
            if service.status.state != pb.InferenceServiceStatus.STATE_DELETING:
                return Written(service.rollout_id, Path(service.spec.model.storage_uri).stem)
            time.sleep(0.02)
        raise AssertionError(f"{name} stays in deletion")


@contextmanager
def killed_after(running: Server, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, running.process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def live(folder: Path, kills: int, seed: int) -> None:
    print(f"seed {seed}")
    history = History(folder, seed)
    for _ in range(kills):
        with server(folder) as running:
            history.settle(running)
            with killed_after(running, history.random.uniform(0, 1)), pytest.raises(grpc.RpcError):
                history.act_until_killed(running)
            kill(running)
    assert history.step > kills
    with server(folder) as running:
        history.settle(running)
        there = {name: written for name, [written] in history.may_be.items() if written}
        for name, written in there.items():
            assert running.wait(name, written.rollout_id).rollout_id == written.rollout_id
        _await_exactly(folder, len(there))
        assert running.running.stop() == 0
    assert children_of(folder / "state") == []


def _await_exactly(folder: Path, servers: int) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while len(found := children_of(folder / "state")) != servers:
        assert time.monotonic() < ends, found
        time.sleep(0.02)


@pytest.mark.timeout(600)
def test_ten_kills_lose_and_leave_nothing(tmp_path: Path) -> None:
    live(tmp_path, 10, chosen_seed())


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_and_leave_nothing(tmp_path: Path) -> None:
    live(tmp_path, 200, chosen_seed())
