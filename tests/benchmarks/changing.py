"""A change at the API server until one client has it, by WatchStatus and by a raw watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from tests.cluster.serving import install, serving

from .comparing import Comparison, Say
from .raw_api import RawApi, manifest_for, raw_api
from .samples import deploy_request, names

WARM_UP = 5
SECONDS = 60.0
COLLECTION = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices"

M = TypeVar("M")


def measure_change(say: Say, lab: Lab, *, namespace: str, rounds: int, folder: Path) -> Comparison:
    """Both clients see the same changes, by somebody else, with KServe stopped."""
    kubeconfig = install(lab)
    [name] = names(1)
    with lab.kserve_stopped(), serving(kubeconfig, folder) as replicas:
        manifest = manifest_for(deploy_request(name, namespace))
        lab.apply(manifest, field_manager="modelservice")
        address = replicas.start().address
        ours, raw = asyncio.run(
            _side_by_side(lab, address, kubeconfig, namespace, name, rounds + WARM_UP)
        )
    say(f"change: {rounds} changes")
    return Comparison("A change to one client", "ms", ours, raw, "raw watch", aim_most=1.1)


async def _side_by_side(
    lab: Lab, address: str, kubeconfig: Path, namespace: str, name: str, rounds: int
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    raw: list[float] = []
    path = COLLECTION.format(namespace)
    async with (
        grpc.aio.insecure_channel(address) as channel,
        # The watch has a connection of its own.
        raw_api(lab, kubeconfig) as watching,
        raw_api(lab, kubeconfig) as writing,
        asyncio.timeout(SECONDS + rounds),
    ):
        listed = await watching.list(path, {})
        lines = watching.watch(path, listed.version)
        stream = ModelServiceStub(channel).WatchStatus(
            pb.WatchStatusRequest(namespace=namespace, name=name)
        )
        await _first(stream, lambda message: message.type == pb.WatchStatusResponse.TYPE_SYNCED)
        for generation in range(2, rounds + 2):
            began = time.perf_counter()
            _, by_watch, by_stream = await asyncio.gather(
                _change(writing, f"{path}/{name}", generation),
                _first(lines, partial(_line_has, generation)),
                _first(stream, partial(_message_has, generation)),
            )
            raw.append((by_watch - began) * 1e3)
            ours.append((by_stream - began) * 1e3)
        stream.cancel()
    return ours[WARM_UP:], raw[WARM_UP:]


async def _change(api: RawApi, path: str, replicas: int) -> None:
    await api.patch(path, {"spec": {"predictor": {"maxReplicas": replicas}}})


def _line_has(generation: int, line: bytes) -> bool:
    return f'"generation":{generation},'.encode() in line


def _message_has(generation: int, message: pb.WatchStatusResponse) -> bool:
    return message.service.generation == generation


async def _first(messages: AsyncIterable[M], awaited: Callable[[M], bool]) -> float:
    """The moment of the first message that is awaited, by time.perf_counter()."""
    async for message in messages:
        if awaited(message):
            return time.perf_counter()
    raise AssertionError("it ended")
