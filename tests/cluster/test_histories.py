"""Whoever writes whatever at once, what each replica tells is a history that ends at the truth."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from kubernetes.client.exceptions import ApiException
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until

from .asking import container, outcome, scaling
from .fixtures import StartReplica
from .objects import OBJECT
from .recording import Recording
from .serving import Server

NAMES = ("a", "b", "c", "d")
STEPS_EACH = 40
Types = pb.WatchStatusResponse.Type
# What a writer among others is told now and then. FIELD_CONFLICT: kubectl wrote the field.
EXPECTED = {"SERVICE_DELETING", "SERVICE_NOT_FOUND", "CONCURRENT_WRITE", "FIELD_CONFLICT"}


def test_replicas_that_write_and_an_administrator_who_edits(
    cluster: Cluster, server: Server, replica: StartReplica, namespace: str
) -> None:
    stubs = [server.stub, replica().stub]
    recordings = [Recording(stub, namespace, "") for stub in stubs]
    work: list[Callable[[random.Random], None]] = [
        *(lambda dice, stub=stub: write(dice, stub, namespace) for stub in stubs),
        lambda dice: administrate(dice, cluster, namespace),
    ]

    def do(number: int) -> None:
        dice = random.Random(number)
        for _ in range(STEPS_EACH):
            work[number](dice)

    with ThreadPoolExecutor(len(work)) as threads:
        list(threads.map(do, range(len(work))))

    for recording, stub in zip(recordings, stubs, strict=True):
        wait_until(
            lambda r=recording, s=stub: known_at_the_end(r) == present(s, namespace), "the truth"
        )
        recording.close()
    wait_until(lambda: written(stubs[0], namespace) == written(stubs[1], namespace), "they agree")


def write(dice: random.Random, stub: ModelServiceStub, namespace: str) -> None:
    name = dice.choice(NAMES)
    if dice.random() < 0.25:
        told = outcome(stub.Delete, pb.DeleteRequest(namespace=namespace, name=name))
    else:
        env, most = {"V": str(dice.random())}, dice.randint(1, 3)
        spec = container(env=env, scaling=scaling(1, most))
        told = outcome(stub.Deploy, pb.DeployRequest(namespace=namespace, name=name, spec=spec))
    assert not isinstance(told, str) or told in EXPECTED, told
    if isinstance(told, pb.DeployResponse):
        request = pb.GetRequest(namespace=namespace, name=name, rollout_id=told.rollout_id)
        shown = outcome(stub.Get, request)
        assert shown == "ROLLOUT_GONE" or shown.service.generation >= told.service.generation


def administrate(dice: random.Random, cluster: Cluster, namespace: str) -> None:
    path = OBJECT.format(namespace, dice.choice(NAMES))
    labels = {"metadata": {"labels": {"edited": str(dice.randint(0, 9))}}}
    with suppress(ApiException):
        if dice.random() < 0.3:
            cluster.request("DELETE", path, {"propagationPolicy": "Foreground"})
        else:
            cluster.request("PATCH", path, labels, "application/merge-patch+json")


def known_at_the_end(recording: Recording) -> dict[str, InferenceService]:
    """What a reader knows who applies every message. Fails where they are not a history."""
    known: dict[str, InferenceService] = {}
    ended: set[str] = set()
    for message in list(recording.messages):
        service = message.service
        before = known.get(service.name)
        if message.type in (Types.TYPE_SNAPSHOT, Types.TYPE_CHANGED):
            assert service.uid not in ended, "what was told to be gone came back"
            assert before is None or service.uid == before.uid, "its end was not told"
            assert before is None or service.generation >= before.generation, "back in time"
            known[service.name] = service
        elif message.type == Types.TYPE_DELETED:
            ended.add(service.uid)
            del known[service.name]
    return known


def present(stub: ModelServiceStub, namespace: str) -> dict[str, InferenceService]:
    listed = stub.List(pb.ListRequest(namespace=namespace)).services
    return {service.name: service for service in listed}


def written(stub: ModelServiceStub, namespace: str) -> dict[str, tuple[str, str, int]]:
    """What every replica must agree on, whenever it was started."""
    services = present(stub, namespace)
    return {name: (s.rollout_id, s.etag, s.status.state) for name, s in services.items()}
