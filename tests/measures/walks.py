"""`python -m tests.measures.walks [--sequence]`: count the calls of a Deploy, pod event and Get.

The whole server runs in this process, over an API server on loopback that plays a recorded service.
Each walk lasts from an idle server until it is idle again:

Deploy                a new image for a service on which KServe has not acted yet
Deploy, READY         the same for a service with a pod that serves
  reported            the feed's report of either, before the watch sends the written object
pod event             the containers of a service's first pod become ready
Get                   a service that has been read before

Field reads are calls that read a field of a raw object. tests/measures/calls.py defines a call.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, redirect_stderr
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any

# gRPC's own core writes to the terminal when a server ends.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[2] / "generated"))

from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server import logs
from server.adapters.kserve.apply.write_plan import plan_deploy
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.adapters.kserve.manifests.manifest import body_of
from server.adapters.kserve.manifests.object_parser import parse_object
from server.adapters.kserve.objects import is_condition_true
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.app import Application
from server.settings import Log
from tests.adapters.kserve.replaying import recording
from tests.patience import PATIENCE_SECONDS
from tests.serving import settings

from .calls import Walk, recorded_calls
from .played_cluster import PlayedCluster

KEY = {"namespace": "models", "name": "iris"}
# This file and this task are shown apart.
FIELD_READS = "adapters/kserve/objects.py"
FEED = "status feed"
# One Deploy does each of these once.
ONCE: dict[str, FunctionType] = {
    "parse the object": parse_object,
    "plan the write": plan_deploy,
    "render the manifest": body_of,
}
# The server is idle if it has called none of its functions for this time.
IDLE_SECONDS = 0.2
# Longer than any result is shared, or any report delayed.
APART_SECONDS = 1.2


async def measured() -> dict[str, Walk]:
    """Measure the walks, and return them by name."""
    states = [observed for _, observed in recording("ready").states() if observed]
    before, after = next((a, b) for a, b in pairwise(states) if _pod_is_ready(b))
    async with _running() as (cluster, stub):
        await _deploy(stub, "1.0")
        deploy, report = await _deploy_walk(cluster, stub, "2.0")

        await cluster.play(before)
        pod_event = await _walk(cluster.play(after))

        await cluster.play(states[-1])
        await _ready(stub)
        ready_deploy, ready_report = await _deploy_walk(cluster, stub, "3.0")

        await _get(stub)
        get = await _walk(_get(stub))
    return {
        "Deploy": deploy,
        "  reported": report,
        "Deploy, READY": ready_deploy,
        "  reported, READY": ready_report,
        "pod event": pod_event,
        "Get": get,
    }


def report(walks: dict[str, Walk], *, sequence: bool) -> Iterator[str]:
    """Yield the lines to print."""
    yield f"{'':20}calls  field reads  files  changes of file"
    for name, walk in walks.items():
        yield (
            f"{name:20}{len(walk.calls):5}{walk.count_in(FIELD_READS):13}{len(walk.files):7}"
            f"{walk.changes_of_file:17}"
        )
    yield ""
    yield "in one Deploy"
    for what, function in ONCE.items():
        yield f"  {what:18}{walks['Deploy'].count(function.__code__):5}"
    yield ""
    yield "calls of one Deploy by folder"
    for folder, number in walks["Deploy"].by_folder:
        yield f"  {folder:30}{number:5}"
    if not sequence:
        return
    for name, walk in walks.items():
        for task, runs in walk.sequences.items():
            yield ""
            yield f"{name.strip()}, {task}"
            for file, functions in runs:
                yield f"  {file}: {', '.join(functions)}"


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.measures.walks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sequence", action="store_true", help="also print the files in order")
    sequence = parser.parse_args(arguments).sequence
    print(*report(asyncio.run(measured()), sequence=sequence), sep="\n")


@asynccontextmanager
async def _running() -> AsyncIterator[tuple[PlayedCluster, Any]]:
    """Run the server over a cluster, and yield that and a stub."""
    with redirect_stderr(io.StringIO()):
        logs.configure(Log(format="json"))
    cluster, stop = PlayedCluster(), asyncio.Event()
    await cluster.start()
    with tempfile.TemporaryDirectory() as folder:
        api = await ApiServer.connect(cluster.kubeconfig(Path(folder)))
    application = Application(KServeCluster(api), settings())
    port = await application.start()
    running = asyncio.create_task(application.run(stop))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await _serving(channel)
            yield cluster, ModelServiceStub(channel)
    finally:
        stop.set()
        await running
        await api.close()
        await cluster.stop()


async def _serving(channel: grpc.aio.Channel) -> None:
    watch = HealthStub(channel).Watch(HealthCheckRequest(), timeout=PATIENCE_SECONDS)
    async for response in watch:
        if response.status == HealthCheckResponse.SERVING:
            watch.cancel()
            return


async def _walk(act: Awaitable[object]) -> Walk:
    """Record the calls of an idle server until it is idle again."""
    await asyncio.sleep(APART_SECONDS)
    with recorded_calls() as calls:
        await act
        seen = -1
        while seen != len(calls):
            seen = len(calls)
            await asyncio.sleep(IDLE_SECONDS)
    return Walk(calls)


async def _deploy_walk(cluster: PlayedCluster, stub: Any, version: str) -> tuple[Walk, Walk]:
    """Measure a Deploy, and the feed's report of it."""
    # The feed holds its last report. After one more report only the view holds the READY service,
    # so the Deploy always frees it.
    await asyncio.sleep(APART_SECONDS)
    await cluster.repeat()
    await asyncio.sleep(IDLE_SECONDS)
    cluster.watches.clear()
    walk = await _walk(_deploy(stub, version))
    cluster.watches.set()
    return walk.split(FEED)


def _pod_is_ready(observed: ObservedObjects) -> bool:
    return any(is_condition_true(pod, "Ready") for pod in observed.pods)


async def _deploy(stub: Any, version: str) -> None:
    container = services_pb.ContainerPredictor(image=f"registry.example.com/iris:{version}")
    spec = services_pb.InferenceServiceSpec(container=container)
    await stub.Deploy(pb.DeployRequest(**KEY, spec=spec))


async def _get(stub: Any) -> pb.GetResponse:
    response: pb.GetResponse = await stub.Get(pb.GetRequest(**KEY))
    return response


async def _ready(stub: Any) -> None:
    watch = pb.WatchStatusRequest(**KEY, until=pb.WatchStatusRequest.UNTIL_READY)
    async for _ in stub.WatchStatus(watch, timeout=PATIENCE_SECONDS):
        pass


if __name__ == "__main__":
    main(sys.argv[1:])
