"""What is deployed survives the server, and nothing else of it does."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil
import pytest
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1 import model_service_pb2 as calls
from modelservice.v1.rollout_service_pb2 import ListRevisionsRequest
from modelservice.v1.rollout_service_pb2_grpc import RolloutServiceStub

from server.domain.rollout.status import State
from server.domain.service.commands import STOP_ANNOTATION
from tests.adapters.local.server_process import Server, kill, server, settings
from tests.adapters.local.serving import model
from tests.adapters.local.world import IRIS, children_of, servers_of, world_of, wrappers_of
from tests.alone import ROOT, clean_environment
from tests.contracts.world import Changed
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.processes


async def test_after_a_restart_the_same_generation_serves_at_the_same_address(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        await world.ready(world.model("1"))
        before = await world.ready(world.model("2"), labels={"team": "a"}, request_id="job-1")
    assert children_of(tmp_path / "state") == []
    async with world_of(tmp_path) as world:
        after = await world.until(State.READY)
        for told in (before, after):
            assert (told.rollout, told.etag, told.spec, told.labels) == (
                before.rollout,
                before.etag,
                before.spec,
                {"team": "a"},
            )
        assert after.status.url == before.status.url
        assert after.create_time == before.create_time
        assert await world.generation_of(after) == 2
        assert len(servers_of(world)) == 1
        replayed = await world.deploy(before.spec, labels={"team": "a"}, request_id="job-1")
        assert replayed.rollout == before.rollout


async def test_after_a_restart_what_served_beside_a_failing_generation_serves_again(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        await world.ready(world.model("good"))
        await world.deploy(world.model("bad", exit=1))
        await world.until(State.DEGRADED)
    async with world_of(tmp_path) as world:
        degraded = await world.until(State.DEGRADED)
        assert degraded.generation == 2
        assert degraded.status.latest_ready_generation == 1
        assert await world.generation_of(degraded) == 1


async def test_after_a_restart_a_stopped_service_is_stopped_and_a_deleted_one_gone(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        await world.deploy(world.model(), annotations={STOP_ANNOTATION: "true"})
        await world.until(State.STOPPED)
        other = IRIS._replace(name="other")
        await world.ready(world.model("2"), other)
        await world.gone(other)
    async with world_of(tmp_path) as world:
        await world.until(State.STOPPED)
        assert world.told.history(other) == []
        assert servers_of(world) == []


async def test_after_a_restart_all_come_up_as_many_at_once_as_take_turns(tmp_path: Path) -> None:
    keys = [IRIS._replace(name=f"iris-{number}") for number in range(20)]
    async with world_of(tmp_path) as world:
        spec = world.model(load_seconds=0.2)
        before = [(await world.deploy(spec, key)).service for key in keys]
    async with world_of(tmp_path) as world:
        assert {key for key in keys if world.told.latest(key)} == set(keys), "told before synced"
        after = [await world.until(State.READY, key=key) for key in keys]
        loading: set[str] = set()
        most = 0
        for event in world.told.events:
            if isinstance(event, Changed):
                name, now = event.service.key.name, event.service.status.message
                loading = loading | {name} if now == "loading the model" else loading - {name}
                most = max(most, len(loading))
        assert most == 2
    assert [s.status.url for s in after] == [s.status.url for s in before]


def revisions_of(running: Server) -> list[tuple[int, str]]:
    """The revisions of the service and their models, newest first."""
    stub = RolloutServiceStub(running.channel)
    found = stub.ListRevisions(ListRevisionsRequest(name="iris")).revisions
    return [(r.revision, Path(r.spec.model.storage_uri).name) for r in found]


POINTS = ["before-write", "before-rename", "after-write", "before-answer"]


@pytest.mark.parametrize(("action", "point"), list(itertools.product(["create", "update"], POINTS)))
def test_killed_at_any_point_of_a_write_the_service_is_there_once_after_the_retry(
    tmp_path: Path, action: str, point: str
) -> None:
    expected = [(1, "new.json")]
    if action == "update":
        expected = [(2, "new.json"), (1, "old.json")]
        with server(tmp_path) as first:
            first.wait(rollout_id=first.deploy(tmp_path, "old").rollout_id)
    with server(tmp_path, MODELSERVICE_TEST_CRASH_AT=point) as doomed:
        with pytest.raises(grpc.RpcError):
            doomed.deploy(tmp_path, "new", request_id="job-1")
        doomed.process.wait(PATIENCE_SECONDS)
    with server(tmp_path) as after:
        answered = after.deploy(tmp_path, "new", request_id="job-1")
        ready = after.wait(rollout_id=answered.rollout_id)
        assert ready.generation == len(expected)
        assert ready.spec.model.storage_uri.endswith("new.json")
        assert len(after.stub.List(calls.ListRequest()).services) == 1
        assert revisions_of(after) == expected
        one_child(tmp_path / "state")
        stored = (tmp_path / "state" / "services").iterdir()
        assert [file.name for file in stored] == ["model-serving.iris.json"]
        assert after.running.stop() == 0
    assert children_of(tmp_path / "state") == []


@pytest.mark.parametrize("point", ["before-write", "before-rename", "after-write"])
def test_killed_while_it_keeps_contents_apart_that_an_earlier_release_stored_none_is_lost(
    tmp_path: Path, point: str
) -> None:
    services = tmp_path / "state" / "services"
    services.mkdir(parents=True)
    stored = Path(__file__).parent / "stored_with_its_contents.json"
    (services / "model-serving.iris.json").write_bytes(stored.read_bytes())
    doomed = subprocess.run(
        [sys.executable, "-m", "server"],
        env=clean_environment() | settings(tmp_path) | {"MODELSERVICE_TEST_CRASH_AT": point},
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
    )
    assert doomed.returncode == -signal.SIGKILL
    expected = [(n, f"iris-{n}.joblib") for n in (3, 2, 1)]
    with server(tmp_path) as after:
        assert revisions_of(after) == expected
        assert after.running.stop() == 0


def test_killed_the_server_takes_its_children_along_and_serves_the_same_again(
    tmp_path: Path,
) -> None:
    with server(tmp_path) as first:
        first.deploy(tmp_path, "1")
        first.wait(rollout_id=first.deploy(tmp_path, "2").rollout_id)
        before = first.wait()
        child = one_child(tmp_path / "state")
        kill(first)
        if sys.platform == "linux":
            child.wait(PATIENCE_SECONDS)
    with server(tmp_path) as second:
        after = second.wait()
        assert (after.generation, after.rollout_id, after.status.url) == (
            before.generation,
            before.rollout_id,
            before.status.url,
        )
        one_child(tmp_path / "state")


def test_what_outlives_a_killed_server_is_ended_before_anything_starts(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        first.wait(rollout_id=first.deploy(tmp_path, "1", child=True).rollout_id)
        state = tmp_path / "state"
        # Else the wrapper ends what the server leaves, as soon as that is killed.
        first.process.send_signal(signal.SIGSTOP)
        for wrapper in wrappers_of(state):
            wrapper.kill()
        kill(first)
        model(tmp_path, "1")
    if sys.platform == "linux":
        await_ended(state, "model_server.py")
    left = children_of(state)
    assert left, "a process that the model server started"
    with server(tmp_path) as second:
        assert not any(process.is_running() for process in left)
        [swept] = second.running.events("ended what an earlier run left")
        assert swept["processes"] == len(left)
        second.wait()
        # Killed, it would leave them behind again: the copy of the model is the first one's.
        assert second.running.stop() == 0


def one_child(state: Path) -> psutil.Process:
    """The only model server, once what it took the requests over from has ended."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while len(found := children_of(state)) != 1:
        assert time.monotonic() < ends, found
        time.sleep(0.02)
    return found[0]


def await_ended(state: Path, argument: str) -> None:
    """Until no process with this in its command carries the mark."""
    found = [p for p in children_of(state) if any(argument in a for a in p.cmdline())]
    psutil.wait_procs(found, PATIENCE_SECONDS)


def test_a_deletion_that_was_under_way_is_carried_out_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "model-serving.iris").touch()
    with server(tmp_path) as first:
        first.wait(rollout_id=first.deploy(tmp_path, "1", hold=str(tmp_path)).rollout_id)
        going = first.stub.Delete(calls.DeleteRequest(name="iris"))
        assert going.service.status.state == pb.InferenceServiceStatus.STATE_DELETING
        kill(first)
    with server(tmp_path) as second:
        gone = calls.WatchStatusRequest(name="iris", until=calls.WatchStatusRequest.UNTIL_GONE)
        list(second.stub.WatchStatus(gone, timeout=PATIENCE_SECONDS))
        assert list((tmp_path / "state" / "services").iterdir()) == []
        assert children_of(tmp_path / "state") == []


def test_killed_while_it_removes_a_service_the_next_start_removes_its_contents(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    (state / "services").mkdir(parents=True)
    # One that a server could not read before: it does not tell whose contents it needs.
    (state / "services" / "model-serving.other.json.unreadable-0").write_text("x")
    with server(tmp_path, MODELSERVICE_TEST_CRASH_AT="during-removal") as doomed:
        for tag in ("1", "2"):
            doomed.wait(rollout_id=doomed.deploy(tmp_path, tag).rollout_id)
        assert list((state / "contents").glob("*/1.json"))
        doomed.stub.Delete(calls.DeleteRequest(name="iris"))
        doomed.process.wait(PATIENCE_SECONDS)
    with server(tmp_path) as second:
        second.wait_until_gone()
        assert list((state / "contents").iterdir()) == []
        assert second.running.stop() == 0


def test_a_second_server_on_a_state_directory_says_who_holds_it(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        second = subprocess.run(
            [sys.executable, "-m", "server"],
            env=clean_environment() | settings(tmp_path) | {"MODELSERVICE_LISTEN": "127.0.0.1:0"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert f"process id {first.process.pid}" in second.stderr
        assert "MODELSERVICE_STATE_DIR" in second.stderr
        first.wait(rollout_id=first.deploy(tmp_path, "1").rollout_id)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_child(tmp_path: Path, how: signal.Signals) -> None:
    with server(tmp_path) as running:
        for name in ("a", "b", "c"):
            running.deploy(tmp_path, name, name)
        running.wait("a")
        running.process.send_signal(how)
        assert running.running.join() == 0
    assert children_of(tmp_path / "state") == []
