"""Watches that are cut at random and resumed on either of two replicas.

The readers check what tests/control checks in virtual time; here the API server, KServe, the
replicas and the connections are real.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from kubernetes.client.exceptions import ApiException
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster
from tests.control.model_reader import Message, ModelReader
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of

from .fixtures import StartReplica
from .objects import OBJECT, unmanaged
from .serving import Server

AT_ONCE = 5
CHANGES = 8
LONGEST_STREAM = 1.5
Types = pb.WatchStatusResponse.Type
PREDICTOR = {"containers": [{"name": "kserve-container", "image": "ready:1"}]}


@dataclass
class Service:
    """A service that others change, delete and create again. Its label `step` counts up."""

    cluster: Cluster
    namespace: str
    name: str
    dice: random.Random
    steps: int = 0

    async def change(self) -> None:
        """Do one random thing to it; the API server may refuse it, as while it is being deleted."""
        what = self.dice.choice([*["label"] * 3, "spec", "pod", "delete", "delete_in_background"])
        with suppress(ApiException):
            await asyncio.to_thread(self._change, what)

    async def create(self) -> None:
        """Create it, unless it is there."""
        self.steps += 1
        labels = {"step": str(self.steps), "team": self.dice.choice("ab")}
        made = unmanaged(self.namespace, self.name, PREDICTOR)
        made["metadata"]["labels"] = labels
        with suppress(ApiException):
            await asyncio.to_thread(
                self.cluster.request, "POST", OBJECT.format(self.namespace, ""), made
            )

    def _change(self, what: str) -> None:
        path = OBJECT.format(self.namespace, self.name)
        patch = partial(
            self.cluster.request, "PATCH", path, content_type="application/merge-patch+json"
        )
        self.steps += 1
        labels = {"step": str(self.steps), "team": self.dice.choice("ab")}
        match what:
            case "label":
                patch(body={"metadata": {"labels": labels}})
            case "spec":
                image = f"ready:{self.steps}"
                containers = [{"name": "kserve-container", "image": image}]
                spec = {"predictor": {"containers": containers}}
                patch(body={"metadata": {"labels": labels}, "spec": spec})
            case "pod":
                label = f"labelSelector=serving.kserve.io/inferenceservice={self.name}"
                pods = f"/api/v1/namespaces/{self.namespace}/pods"
                for pod in self.cluster.get(f"{pods}?{label}")["items"][:1]:
                    self.cluster.request("DELETE", f"{pods}/{pod['metadata']['name']}")
            case "delete":
                self.cluster.request("DELETE", path, {"propagationPolicy": "Foreground"})
            case "delete_in_background":
                self.cluster.request("DELETE", path, {"propagationPolicy": "Background"})


@dataclass
class CutReader:
    """A reader that is cut at random, and resumes on a replica that the dice choose."""

    stubs: list[Any]
    request: pb.WatchStatusRequest
    dice: random.Random
    streams: int = 0
    behind: int = 0

    def __post_init__(self) -> None:
        # A pod that is deleted and made anew brings back the state before.
        self.model = ModelReader(watches_one=bool(self.request.name), states_return=True)

    async def read_until(self, over: asyncio.Event) -> None:
        """Read streams, a few messages of each, until it is `over`."""
        while not over.is_set():
            await self.read_one(
                self.dice.choice(self.stubs),
                self.dice.randint(1, 8),
                self.dice.uniform(0, LONGEST_STREAM),
            )

    async def read_one(self, stub: Any, messages: int, seconds: float) -> None:
        """Resume on a replica, and read so many messages, or so long."""
        self.streams += 1
        self.model.open()
        self.request.resume_token = self.model.token
        call = stub.WatchStatus(self.request)
        try:
            async with asyncio.timeout(seconds):
                for _ in range(messages):
                    self.model.take(message_of(await call.read()))
        except TimeoutError:
            pass
        except grpc.aio.AioRpcError as error:
            if refusal_of(error).reason != "VIEW_BEHIND":
                raise
            self.behind += 1
        finally:
            call.cancel()

    async def read_until_final(self) -> None:
        """Read on, of one replica after the other, until each has what the reader knows."""
        agreed = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while agreed < len(self.stubs):
                stub = self.stubs[self.streams % len(self.stubs)]
                await self.read_one(stub, 1000, 0.3)
                known = sorted(_alike(m.state) for m in self.model.known.values())
                agreed = agreed + 1 if known == await self._present(stub) else 0

    async def _present(self, stub: Any) -> list[bytes]:
        wanted = self.request
        listing = pb.ListRequest(
            namespace=wanted.namespace, label_selector=wanted.label_selector, page_size=1000
        )
        services = (await stub.List(listing)).services
        return sorted(state_of(s) for s in services if wanted.name in ("", s.name))


def message_of(response: pb.WatchStatusResponse) -> Message:
    kind = Types.Name(response.type).removeprefix("TYPE_")
    if not response.HasField("service"):
        return Message(kind, response.resume_token)
    service = response.service
    key, order = (service.namespace, service.name), int(service.labels.get("step", 0))
    state = service.SerializeToString(deterministic=True)
    return Message(kind, response.resume_token, key, service.uid, order, state)


def _alike(state: Any) -> bytes:
    return state_of(InferenceService.FromString(state))


def state_of(service: Any) -> bytes:
    """The state without what each replica remembers by itself."""
    alike = type(service)()
    alike.CopyFrom(service)
    alike.status.ClearField("latest_ready_generation")
    alike.status.ClearField("last_transition_time")
    if alike.status.HasField("failure"):
        alike.status.failure.ClearField("log_lines")
        alike.status.failure.ClearField("first_seen_time")
    return bytes(alike.SerializeToString(deterministic=True))


@dataclass
class Histories:
    """Histories that are played over two replicas, a few at a time."""

    seed: int
    cluster: Cluster
    namespace: str
    stubs: list[Any]
    readers: list[CutReader] = field(default_factory=list)
    changes: int = 0

    async def play(self, count: int) -> None:
        """Play so many, and compare at the end of each; two readers follow all of them."""
        slots, over = asyncio.Semaphore(AT_ONCE), asyncio.Event()
        of_all = [self.reader(f"all-{nth}", label_selector="team=a") for nth in range(2)]

        async def play_next(number: int) -> None:
            async with slots:
                await self._play_one(f"history-{number}")

        async with asyncio.TaskGroup() as following:
            for reader in of_all:
                following.create_task(reader.read_until(over))
            async with asyncio.TaskGroup() as playing:
                for number in range(count):
                    playing.create_task(play_next(number))
            over.set()
        for reader in of_all:
            await reader.read_until_final()

    def reader(self, reads: str, **fields: Any) -> CutReader:
        """A reader with dice of its own."""
        request = pb.WatchStatusRequest(
            namespace=self.namespace, heartbeat_interval=Duration(seconds=60), **fields
        )
        self.readers.append(CutReader(self.stubs, request, self._dice(reads)))
        return self.readers[-1]

    async def _play_one(self, name: str) -> None:
        dice = self._dice(name)
        service = Service(self.cluster, self.namespace, name, dice)
        readers = [self.reader(f"{name}/{nth}", name=name) for nth in range(2)]
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(reader.read_until(over))
            for _ in range(CHANGES):
                await service.create()
                await asyncio.sleep(dice.uniform(0, 0.4))
                await service.change()
                await asyncio.sleep(dice.uniform(0, 0.4))
            over.set()
        for reader in readers:
            await reader.read_until_final()
        self.changes += service.steps

    def _dice(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")


async def _play(
    count: int, seed: int, cluster: Cluster, namespace: str, addresses: list[str]
) -> Histories:
    channels = [grpc.aio.insecure_channel(address) for address in addresses]
    try:
        stubs = [ModelServiceStub(channel) for channel in channels]
        histories = Histories(seed, cluster, namespace, stubs)
        await histories.play(count)
    finally:
        for channel in channels:
            await channel.close()
    return histories


@pytest.mark.parametrize(
    "count", [6, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_watches_that_are_cut_and_resumed_on_either_replica_are_sent_histories(
    count: int, cluster: Cluster, server: Server, replica: StartReplica, namespace: str
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    addresses = [server.address, replica().address]
    played = asyncio.run(_play(count, seed, cluster, namespace, addresses))
    streams, behind = (
        sum(getattr(reader, what) for reader in played.readers) for what in ("streams", "behind")
    )
    print(f"{count} histories: {played.changes} changes, {streams} streams, {behind} VIEW_BEHIND")
    assert streams > 2 * len(played.readers)
