"""The audit: who wrote what, on record before it is written and before it is answered."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceServiceSpec, RegisteredModelPredictor
from modelservice.v1.rollout_service_pb2 import RollbackRequest
from structlog.testing import capture_logs

from server.api import audit as api_audit
from server.api.audit import Audit, AuditedCall
from server.api.call_limits import RefusedCalls
from server.app import opened_audit
from server.deadline import NEVER
from server.domain.caller import Caller
from server.domain.errors import AuditUnavailable
from server.ports import MOST_AUDIT_BYTES
from server.settings import SettingsInvalid
from tests.alone import alone
from tests.patience import PATIENCE_SECONDS
from tests.refusals import Refusal, refusal_of
from tests.serving import Served, serving, settings

from .registry_project import Project
from .requests import NAMESPACE, container, deploy, eventually
from .test_impersonation import Rights, acting
from .test_rights import TABLE, answer, everything, in_role
from .token_files import Client, entry, identity, token_of

SECRET = "hunter2"
READS = ("Get", "List", "Watch")
HERE = "team-a"


class World:
    """A server with callers and an audit, whose records are read as another program would."""

    def __init__(self, served: Served, channel: grpc.Channel, audit: Path) -> None:
        self.served, self.audit = served, audit
        self.channel = channel
        self.root = self.client("root")

    def client(self, user: str) -> Client:
        return Client.of(self.channel, user)

    def records(self) -> list[dict[str, Any]]:
        return parsed(self.audit.read_bytes())


def parsed(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


@contextmanager
def world_at(audit: Path, tmp_path: Path, *users: str) -> Iterator[World]:
    file = tmp_path / "tokens.toml"
    file.write_text("".join([entry("root", **everything()), *users]))
    made = settings(
        registry=f"sqlite:///{tmp_path}/registry.db",
        identity=identity(file) | {"audit": str(audit)},
    )
    with serving(made) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        yield World(served, channel, audit)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_at(tmp_path / "audit.log", tmp_path, in_role("none")) as world:
        yield world


def refused_deploy(client: Client, name: str) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        client.models.Deploy(deploy(name))
    return refusal_of(raised.value)


def not_recorded(client: Client, name: str) -> Refusal:
    refusal = refused_deploy(client, name)
    assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
    assert refusal.retry_after.total_seconds() > 0
    return refusal


def exists(client: Client, name: str) -> bool:
    return answer(client, "Get", pb.GetRequest(name=name)).code is StatusCode.OK


def deploys_again(client: Client, name: str) -> bool:
    return answer(client, "Deploy", deploy(name)).code is StatusCode.OK


def test_every_write_is_on_record_when_it_begins_and_when_it_ends(world: World) -> None:
    """An RPC that is added, and writes without a record, fails here: TABLE has every RPC."""
    Project(world.root.registry, HERE).model("iris")
    writes = {method for method in TABLE if not method.startswith(READS)}
    for method in sorted(writes):
        before = len(world.records())
        code = answer(world.root, method, TABLE[method][1]("iris")).code
        begun, ended = world.records()[before:]
        assert (begun["stage"], ended["stage"]) == ("begun", "ended"), method
        assert begun["method"].endswith(f"/{method}")
        assert begun["id"] == ended["id"]
        assert ended["code"] == code.name
    for method in TABLE.keys() - writes - {"WatchStatus"}:
        before = len(world.records())
        answer(world.root, method, TABLE[method][1]("iris"))
        assert len(world.records()) == before, method


def test_a_record_says_who_did_what_and_how_it_ended(tmp_path: Path) -> None:
    users = 'groups = ["risk", "ci"]\n'
    user = entry("ci", namespaces={HERE: "deployer"}).rstrip() + "\n" + users
    with world_at(tmp_path / "audit.log", tmp_path, user) as world:
        request = deploy("iris", namespace=HERE, request_id="job-7")
        done = world.client("ci").models.Deploy(request)
        begun, ended = world.records()
    who = {
        "id": begun["id"],
        "user": "ci",
        "groups": ["risk", "ci", "system:authenticated"],
        "peer": begun["peer"],
        "method": "modelservice.v1.ModelService/Deploy",
        "target": f"{HERE}/iris",
        "request_id": "job-7",
    }
    assert begun == {"time": begun["time"], "stage": "begun"} | who
    assert ended == {"time": ended["time"], "stage": "ended", "code": "OK"} | who | {
        "action": "CREATED",
        "rollout_id": done.rollout_id,
    }
    assert begun["peer"].startswith("127.0.0.1:")
    assert begun["time"] < ended["time"]


def test_the_record_of_a_rollback_has_the_revision(world: World) -> None:
    first = world.root.models.Deploy(deploy("iris")).service.generation
    world.root.models.Deploy(deploy("iris", "example.org/model:2"))
    back = world.root.rollouts.Rollback(RollbackRequest(name="iris", revision=first))
    ended = world.records()[-1]
    assert ended["method"] == "modelservice.v1.RolloutService/Rollback"
    assert (ended["action"], ended["revision"]) == ("UPDATED", str(first))
    assert ended["rollout_id"] == back.rollout_id


def test_both_names_are_on_record_where_a_caller_acts_for_another(tmp_path: Path) -> None:
    rights: Any = Rights()
    rights.given = {
        ("portal", "impersonate", "", "jane"),
        ("jane", "patch", NAMESPACE, ""),
        ("jane", "create", NAMESPACE, ""),
    }
    audit = tmp_path / "audit.log"
    with serving(settings(identity={"audit": str(audit)}), identities=rights) as served:
        with grpc.insecure_channel(served.address) as channel:
            stub = Client(channel, "Bearer portal").models
            done = stub.Deploy(deploy("iris"), metadata=acting("jane"))
            with pytest.raises(grpc.RpcError):
                stub.Deploy(deploy("iris"), metadata=acting("root"))
        assert done.service.status.deployed_by == "jane"
    begun, ended, refused = parsed(audit.read_bytes())
    for record in (begun, ended):
        assert (record["user"], record["on_behalf_of"]) == ("portal", "jane")
    assert (refused["user"], refused["reason"]) == ("portal", "PERMISSION_DENIED")
    assert refused["first_target"] == "users/root"


def test_a_deploy_of_a_registered_model_is_on_record_with_the_service_that_it_writes(
    world: World,
) -> None:
    project = Project(world.root.registry, HERE)
    project.model()
    project.version()
    project.environment(namespace="staging")
    names = RegisteredModelPredictor(project=HERE, model="fraud", environment="staging")
    request = pb.DeployRequest(spec=InferenceServiceSpec(registered_model=names))
    service = world.root.models.Deploy(request).service
    assert {record["target"] for record in world.records()[-2:]} == {f"staging/{service.name}"}


def test_a_write_that_the_cluster_refuses_is_on_record_with_its_reason(world: World) -> None:
    refused = answer(world.root, "Deploy", deploy("iris", etag="stale"))
    assert refused.code is StatusCode.NOT_FOUND
    begun, ended = world.records()
    assert (begun["stage"], ended["stage"]) == ("begun", "ended")
    assert (ended["code"], ended["reason"]) == ("NOT_FOUND", "SERVICE_NOT_FOUND")


def test_a_dry_run_has_no_record(world: World) -> None:
    world.root.models.Deploy(deploy("iris", validate_only=True))
    world.root.models.Deploy(deploy("iris"))
    world.root.models.Delete(pb.DeleteRequest(name="iris", validate_only=True))
    assert [record["stage"] for record in world.records()] == ["begun", "ended"]


def test_no_record_has_a_secret(world: World) -> None:
    request = deploy("iris", labels={"note": SECRET}, annotations={"note": SECRET})
    request.spec.CopyFrom(container(env={"PASSWORD": SECRET, SECRET: "x"}))
    world.root.models.Deploy(request)
    answer(Client(world.channel, f"Bearer {SECRET}"), "Get", pb.GetRequest(name="iris"))
    answer(world.client("none-team-a"), "Deploy", request)
    world.served.begin_stop()
    world.served.join()
    content = world.audit.read_text()
    assert [json.loads(line)["stage"] for line in content.splitlines()] == [
        "begun",
        "ended",
        "refused",
        "refused",
    ]
    for secret in (SECRET, token_of("root"), token_of("none-team-a")):
        assert secret not in content


def test_nothing_is_written_while_nobody_reads_the_pipe_of_the_audit(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with world_at(pipe, tmp_path) as world:
        refusal = not_recorded(world.root, "iris")
        assert "nothing was written" in refusal.message
        assert refusal.metadata == {"written": "false"}
        assert not exists(world.root, "iris"), "reads go on"
        world.root.models.Deploy(deploy("iris", validate_only=True))
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        eventually("writes are accepted again", lambda: deploys_again(world.root, "iris"))
        assert exists(world.root, "iris")
        stages = [record["stage"] for record in parsed(os.read(reader, 1 << 16))]
        assert stages[-2:] == ["begun", "ended"]
        os.close(reader)


def test_a_pipe_that_stalls_between_a_write_and_its_answer_loses_no_record(tmp_path: Path) -> None:
    """It has room for one record: that of the beginning."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    with world_at(pipe, tmp_path) as world:
        refusal = not_recorded(world.root, "iris")
        assert "it is done" in refusal.message
        assert refusal.metadata == {"written": "true"}
        assert exists(world.root, "iris")
        assert "nothing was written" in not_recorded(world.root, "other").message
        assert not exists(world.root, "other")
        read = bytearray()

        def both_are_read() -> bool:
            with suppress(BlockingIOError):
                read.extend(os.read(reader, 1 << 16))
            return read.count(b"\n") >= 2

        eventually("both records are in the pipe", both_are_read)
        begun, ended = parsed(bytes(read))
        assert begun["id"] == ended["id"]
        assert (begun["stage"], ended["stage"], ended["code"]) == ("begun", "ended", "OK")
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 16)
        eventually("writes are accepted again", lambda: deploys_again(world.root, "other"))
    os.close(reader)


@pytest.mark.processes
def test_a_full_disk_refuses_writes_and_every_record_is_whole_once_there_is_room(
    tmp_path: Path,
) -> None:
    """The limit of a file's size cuts a record in the middle, as a full disk does."""
    audit = tmp_path / "audit.log"
    with alone(MODELSERVICE_AUDIT=str(audit), MODELSERVICE_STOP_DELAY="0") as server:
        with grpc.insecure_channel(server.address) as channel:
            client = Client(channel)
            client.models.Deploy(deploy("first"))
            _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
            full = audit.stat().st_size + 100
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (full, most))
            not_recorded(client, "second")
            assert not exists(client, "second")
            assert audit.stat().st_size == full
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, most))
            eventually("writes are accepted again", lambda: deploys_again(client, "second"))
        assert server.stop() == 0
    lines = audit.read_text().splitlines()
    torn = [line for line in lines if not line.endswith("}")]
    whole = [json.loads(line) for line in lines if line not in torn]
    assert len(torn) == 1
    assert any(line.startswith(torn[0]) for line in lines if line not in torn)
    begun = [record["id"] for record in whole if record["stage"] == "begun"]
    assert len(begun) == len(set(begun)) >= 3
    assert begun == [record["id"] for record in whole if record["stage"] == "ended"]
    (problem,) = server.events("audit records cannot be written: writes are refused")
    assert problem["level"] == "error"


@pytest.mark.processes
def test_kill_9_between_the_write_and_its_answer_leaves_who_it_was(tmp_path: Path) -> None:
    file, audit = tmp_path / "tokens.toml", tmp_path / "audit.log"
    file.write_text(entry("root", **everything()))
    with alone(
        MODELSERVICE_AUDIT=str(audit),
        MODELSERVICE_AUTH="tokens",
        MODELSERVICE_TOKENS_FILE=str(file),
        MODELSERVICE_TEST_CRASH_AT="before-answer",
    ) as server:
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            Client.of(channel, "root").models.Deploy(deploy("iris"))
        assert server.join() == -9
    (begun,) = parsed(audit.read_bytes())
    assert (begun["stage"], begun["user"], begun["target"]) == (
        "begun",
        "root",
        "model-serving/iris",
    )


@pytest.mark.processes
def test_the_records_can_go_to_standard_output_apart_from_the_log(tmp_path: Path) -> None:
    with (
        (tmp_path / "stdout").open("wb") as stdout,
        alone(stdout=stdout, MODELSERVICE_AUDIT="-", MODELSERVICE_STOP_DELAY="0") as server,
    ):
        with grpc.insecure_channel(server.address) as channel:
            Client(channel).models.Deploy(deploy("iris"))
        assert server.stop() == 0
    records = parsed((tmp_path / "stdout").read_bytes())
    assert [record["stage"] for record in records] == ["begun", "ended"]
    assert not [line for line in server.lines if '"stage"' in line]


def test_a_file_that_is_moved_away_is_followed_by_a_new_one(world: World) -> None:
    world.root.models.Deploy(deploy("first"))
    moved = world.audit.rename(world.audit.with_suffix(".1"))
    world.root.models.Deploy(deploy("second"))
    assert {record["target"] for record in parsed(moved.read_bytes())} == {"model-serving/first"}
    assert {record["target"] for record in world.records()} == {"model-serving/second"}
    assert world.audit.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_cut_off_is_ended_before_the_next_record(
    world: World, tmp_path: Path
) -> None:
    world.audit.rename(tmp_path / "other")
    world.audit.write_text('{"time":"2026-')
    world.root.models.Deploy(deploy("iris"))
    torn, begun, ended = world.audit.read_text().splitlines()
    assert torn == '{"time":"2026-'
    assert json.loads(begun)["id"] == json.loads(ended)["id"]


def test_a_flood_of_refused_calls_is_summed_up(tmp_path: Path) -> None:
    """More callers than there are sums, each refused twice, and calls without a valid token."""
    users = [f"user-{n}" for n in range(api_audit.MOST_REFUSALS + 20)]
    with world_at(tmp_path / "audit.log", tmp_path, *map(entry, users)) as world:
        for user in users * 2:
            denied = answer(world.client(user), "Deploy", deploy("iris"))
            assert denied.code is StatusCode.PERMISSION_DENIED
        unknown = Client(world.channel, "Bearer garbage")
        for _ in range(50):
            assert answer(unknown, "Get", pb.GetRequest(name="n")).code is (
                StatusCode.UNAUTHENTICATED
            )
        answer(world.root, "Get", pb.GetRequest(name="n"))
        answer(world.root, "Deploy", deploy("Bad Name"))
        world.served.begin_stop()
        world.served.join()
        records = world.records()
    assert {record["stage"] for record in records} == {"refused"}
    assert len(records) <= api_audit.MOST_REFUSALS + 3
    assert all(len(json.dumps(record)) < 1000 for record in records)
    calls = dict.fromkeys(("PERMISSION_DENIED", "UNAUTHENTICATED", "FIELD_INVALID"), 0)
    for record in records:
        calls[record["reason"]] += record["calls"]
    assert calls == {
        "PERMISSION_DENIED": 2 * len(users),
        "UNAUTHENTICATED": 50,
        "FIELD_INVALID": 1,
    }
    first = records[0]
    assert (first["user"], first["calls"]) == ("user-0", 2)
    assert (first["host"], first["first_target"]) == ("127.0.0.1", "model-serving/iris")
    assert first["since"] < first["time"]


def test_a_refused_call_whose_client_leaves_before_its_answer_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()

    async def hold(*_: Any) -> None:
        held.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(RefusedCalls, "add", hold)
    call = Client(world.channel, "Bearer garbage").models.Deploy.future(deploy("iris"))
    assert held.wait(PATIENCE_SECONDS)
    call.cancel()
    world.served.begin_stop()
    world.served.join()
    (refused,) = world.records()
    assert (refused["stage"], refused["reason"]) == ("refused", "UNAUTHENTICATED")
    assert refused["calls"] == 1


async def refuse(audit: Audit) -> None:
    call = AuditedCall(audit, {"method": "S/Deploy"}, lambda: "ipv4:127.0.0.1:7", writes=True)
    await call.end("PERMISSION_DENIED", "PERMISSION_DENIED")


async def test_a_server_that_fails_stores_the_sums_of_refused_calls(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    async def fail() -> None:
        async with opened_audit(settings(identity={"audit": str(path)})) as audit:
            assert audit
            await refuse(audit)
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        await fail()
    (refused,) = parsed(path.read_bytes())
    assert (refused["stage"], refused["calls"]) == ("refused", 1)


async def test_a_stop_logs_the_sums_of_refused_calls_that_are_lost(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with capture_logs() as logged:
        async with opened_audit(settings(identity={"audit": str(pipe)})) as audit:
            assert audit
            audit.put({"stage": "begun"})
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not logged:
                    await asyncio.sleep(0.01)
            with pytest.raises(AuditUnavailable):
                audit.require_available()
            await refuse(audit)
    assert [line["event"] for line in logged] == [
        "audit records cannot be written: writes are refused",
        "audit records lost",
    ]
    assert logged[0]["why"] == f"nobody reads the pipe {pipe}"
    assert logged[-1]["records"] == 2


class Kept:
    """A sink that keeps its records in memory."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def available(self) -> bool:
        return True

    def put(self, line: bytes) -> Any:
        self.lines.append(line)
        stored = asyncio.get_running_loop().create_future()
        stored.set_result(None)
        return stored


async def test_a_record_names_the_caller_and_for_whom_it_acts() -> None:
    kept = Kept()
    fields = {"method": "S/Deploy"}
    call = AuditedCall(Audit(kept), fields, lambda: "ipv6:%5B::1%5D:7", writes=True)
    await call.begin(Caller("ann", impersonated_by="portal"), NEVER, "a/b")
    (record,) = parsed(b"".join(kept.lines))
    assert (record["user"], record["on_behalf_of"]) == ("portal", "ann")
    assert record["peer"] == "[::1]:7"


async def test_a_record_fits_into_a_pipe_at_once_whatever_its_names_have() -> None:
    kept = Kept()
    worst = '"\\\ud800\x1b[31mé\n' * 1000
    fields = {"method": "S/Deploy", "request_id": '"' * 128}
    call = AuditedCall(Audit(kept), fields, lambda: "ipv4:127.0.0.1:7", writes=True)
    caller = Caller(worst, groups=(worst, *map(str, range(9000))), impersonated_by=worst)
    await call.begin(caller, NEVER, worst)
    call.note(rollout_id="r" * 100, action="CREATED")
    await call.end("FAILED_PRECONDITION", "ENVIRONMENT_NAMESPACE_FIXED")
    assert [record["stage"] for record in parsed(b"".join(kept.lines))] == ["begun", "ended"]
    assert all(len(line) <= MOST_AUDIT_BYTES and line.count(b"\n") == 1 for line in kept.lines)


async def test_a_server_does_not_start_with_an_audit_that_it_cannot_write(tmp_path: Path) -> None:
    listening = tmp_path / "socket"
    absent = tmp_path / "absent" / "audit.log"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(listening))
    for path, why in (
        (tmp_path, "Is a directory"),
        (absent, "No such file or directory"),
        (listening, "No such device or address"),
    ):
        made = settings(identity={"audit": str(path)})
        wanted = (
            rf"^MODELSERVICE_AUDIT: must be a file or a pipe .*: {re.escape(f'{path}: {why}')}$"
        )
        with pytest.raises(SettingsInvalid, match=wanted):
            async with opened_audit(made):
                pass
