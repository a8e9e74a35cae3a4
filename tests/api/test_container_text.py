"""The text of containers takes the right to read logs, in every answer that has it."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import registry_service_pb2 as registry_pb
from modelservice.v1.rollout_service_pb2 import ListRevisionsRequest

from server import followed_file
from server.control import authorizer
from server.domain.caller import Access, Caller, Resource
from server.domain.errors import ClusterUnavailable
from server.domain.rollout.status import LAST_LOG_LINE, Condition
from server.domain.service.container_text import HELD_BACK
from server.domain.service.inference_service import ServiceKey
from tests.refusals import refusal_of
from tests.serving import Served, serving, settings

from .registry_project import Project
from .requests import deploy, eventually, failed, watching
from .token_files import Client, entry, identity

HERE, THERE = "team-a", "team-b"
PLANTED = "cannot log in with hunter2"
UNTIL_READY = pb.WatchStatusRequest.UNTIL_READY


class World:
    """A server with a registry. `blind` may do all but read logs in HERE, and `projects` may only
    read the registry."""

    def __init__(self, served: Served, channel: grpc.Channel, database: Path) -> None:
        self.served, self.database = served, database
        self.blind, self.reader, self.projects = (
            Client.of(channel, name) for name in ("blind", "reader", "projects")
        )
        self.error: ClusterUnavailable | None = None
        self.denied = threading.Event()
        self.denied.set()
        self.reviews = itertools.count()
        self._allows = served.application.identities.allows
        served.application.identities.allows = self._decide

    async def _decide(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
        if access.resource is Resource.POD_LOGS:
            next(self.reviews)
        if access == ("get", Resource.POD_LOGS, HERE, "") and caller.name == "blind":
            if self.error:
                raise self.error
            return not self.denied.is_set()
        return bool(await self._allows(caller, access, fresh=fresh))

    def fail(self, namespace: str, name: str = "iris", text: str = PLANTED) -> None:
        """Let a service fail, with the text in every place that a container's can come to."""
        key = ServiceKey(namespace, name)
        found = self.served.awaited(self.served.memory.read(key))
        assert found
        status = failed(found.rollout.id, log_lines=("Traceback", text))
        assert status.failure
        condition = Condition("Ready", "False", message="it failed with message: ")
        status = replace(
            status,
            message=f"waiting{LAST_LOG_LINE}{text}",
            failure=status.failure.with_container_text(text),
            conditions=(replace(condition, message=condition.message + text, container_text=text),),
        )
        self.served.inside(self.served.memory.set_status, key, status)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Streams are checked often."""
    monkeypatch.setattr(followed_file, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(authorizer, "RECHECK", authorizer.RECHECK / 600)
    file = tmp_path / "tokens.toml"
    roles = {"namespaces": {"*": "admin"}, "projects": {"*": "admin"}}
    entries = [entry("blind", **roles), entry("reader", **roles)]
    file.write_text("".join([*entries, entry("projects", projects={"*": "viewer"})]))
    made = settings(registry=f"sqlite:///{tmp_path}/registry.db", identity=identity(file))
    with serving(made) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        world = World(served, channel, tmp_path / "registry.db")
        for namespace in (HERE, THERE):
            world.reader.models.Deploy(deploy("iris", namespace=namespace))
            world.fail(namespace)
            get = pb.GetRequest(namespace=namespace, name="iris")
            eventually(
                "it has failed", lambda get=get: PLANTED in str(world.reader.models.Get(get))
            )
        yield world


def first(stub: Any, **fields: Any) -> pb.WatchStatusResponse:
    with watching(stub, **fields) as stream:
        return stream.next()


Ask = Callable[[Any], Message]
ANSWERS: dict[str, Ask] = {
    "Get": lambda stub: stub.Get(pb.GetRequest(namespace=HERE, name="iris")),
    "List": lambda stub: stub.List(pb.ListRequest(namespace=HERE)),
    "watch of one": lambda stub: first(stub, namespace=HERE, name="iris"),
    "watch of a namespace": lambda stub: first(stub, namespace=HERE),
    "watch of all": lambda stub: first(stub, namespace="-"),
    "Deploy": lambda stub: stub.Deploy(deploy("iris", namespace=HERE)),
    "Deploy, dry": lambda stub: stub.Deploy(deploy("iris", namespace=HERE, validate_only=True)),
    "Delete": lambda stub: stub.Delete(
        pb.DeleteRequest(namespace=HERE, name="iris", validate_only=True)
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_holds_the_text_back_from_a_caller_without_the_right(
    world: World, answer: str
) -> None:
    for _ in range(2):
        # Bytes that are cached for one of them are not sent to the other.
        assert PLANTED in str(ANSWERS[answer](world.reader.models))
        held_back = str(ANSWERS[answer](world.blind.models))
        assert PLANTED not in held_back
        assert HELD_BACK in held_back


def test_a_list_of_revisions_holds_it_back(world: World) -> None:
    world.served.memory.ready_after = None
    world.reader.models.Deploy(deploy("iris", "example.org/model:2", namespace=HERE))
    world.fail(HERE)
    request = ListRevisionsRequest(namespace=HERE, name="iris")
    assert PLANTED in str(world.reader.rollouts.ListRevisions(request))
    held_back = str(world.blind.rollouts.ListRevisions(request))
    assert PLANTED not in held_back
    assert HELD_BACK in held_back


def test_a_list_of_all_namespaces_holds_it_back_in_those_without_the_right(world: World) -> None:
    texts = {
        each.namespace: str(each)
        for each in world.blind.models.List(pb.ListRequest(namespace="-")).services
    }
    assert PLANTED not in texts[HERE]
    assert PLANTED in texts[THERE]


def test_the_error_that_ends_a_wait_holds_it_back(world: World) -> None:
    told = {}
    for name, client in (("reader", world.reader), ("blind", world.blind)):
        with watching(client.models, namespace=HERE, name="iris", until=UNTIL_READY) as stream:
            _, error = stream.rest()
        assert error
        told[name] = f"{refusal_of(error)} {refusal_of(error).failure}"
    assert PLANTED in told["reader"]
    assert PLANTED not in told["blind"]
    assert HELD_BACK in told["blind"]


def test_an_open_watch_follows_the_right(world: World) -> None:
    with watching(world.blind.models, namespace="-") as stream:
        stream.until(lambda message: message.type == pb.WatchStatusResponse.TYPE_SYNCED)
        world.fail(HERE, text=f"{PLANTED} once")
        changed = stream.next()
        assert changed.service.namespace == HERE
        assert PLANTED not in str(changed)
        world.denied.clear()
        for nth in itertools.count():
            world.fail(HERE, text=f"{PLANTED} {nth}")
            if PLANTED in str(stream.next()):
                break
        world.denied.set()
        for nth in itertools.count():
            world.fail(HERE, text=f"{PLANTED} again {nth}")
            if PLANTED not in str(stream.next()):
                break


def test_a_right_that_cannot_be_asked_for_holds_the_text_back(world: World) -> None:
    world.error = ClusterUnavailable("away")
    assert HELD_BACK in str(ANSWERS["Get"](world.blind.models))


def test_the_right_is_asked_for_only_where_there_is_text(world: World) -> None:
    world.reader.models.Deploy(deploy("healthy", namespace=HERE))
    before = next(world.reviews)
    world.blind.models.Get(pb.GetRequest(namespace=HERE, name="healthy"))
    with watching(world.blind.models, namespace=HERE, name="healthy") as stream:
        stream.take(2)
    assert next(world.reviews) == before + 1


def test_records_hold_it_back_from_those_who_may_not_read_it_in_their_namespace(
    world: World,
) -> None:
    project = Project(world.reader.registry, "risk")
    project.model()
    project.version()
    project.environment(namespace=HERE)
    deployed = world.reader.models.Deploy(project.deploy(name="fraud"))
    get = registry_pb.GetModelDeploymentRequest(project="risk", id=deployed.service.deployment_id)
    listed = registry_pb.ListModelDeploymentsRequest(project="risk")
    world.fail(HERE, "fraud")
    eventually(
        "it is on record", lambda: PLANTED in str(world.reader.registry.GetModelDeployment(get))
    )
    for stored_by in ("this release", "an earlier one"):
        if stored_by == "an earlier one":
            with sqlite3.connect(world.database) as database:
                stored = "json_remove(failure, '$.container_text')"
                database.execute(f"update model_deployments set failure = {stored}")
        for client in (world.blind, world.projects):
            for answer in (
                client.registry.GetModelDeployment(get),
                client.registry.ListModelDeployments(listed),
            ):
                assert PLANTED not in str(answer), stored_by
                assert HELD_BACK in str(answer)
