"""Deploy through the server, beside the server-side apply of the same object by one HTTP client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from tests.cluster.serving import install, serving
from tests.patience import PATIENCE_SECONDS

from .comparing import Comparison, Say
from .raw_api import manifest_for, raw_api
from .samples import deploy_request, names

if TYPE_CHECKING:
    from modelservice.v1.model_service_pb2_grpc import ModelServiceAsyncStub

WARM_UP = 5
NEWS_EVERY = 25
_RUNTIMES = "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes"


def measure_deploy(say: Say, lab: Lab, *, namespace: str, rounds: int, folder: Path) -> Comparison:
    """New services by either, one after the other; who begins a round changes.

    Both write the same object with the same rights, but for its name, and KServe is at work beside.
    The server follows all services and takes in those of the raw side too, which the raw side does
    not: so a write begins once the server has taken in the one before.
    """
    kubeconfig = install(lab)
    runtimes = lab.get(_RUNTIMES)["items"]
    with serving(kubeconfig, folder) as replicas:
        address = replicas.start().address
        ours, bare = asyncio.run(
            _side_by_side(say, lab, address, kubeconfig, rounds + WARM_UP, namespace, runtimes)
        )
    return Comparison("Deploy", "ms", ours, bare, "raw server-side apply", aim_most=1.12)


async def _side_by_side(
    say: Say,
    lab: Lab,
    address: str,
    kubeconfig: Path,
    rounds: int,
    namespace: str,
    runtimes: Sequence[dict[str, Any]],
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel, raw_api(lab, kubeconfig) as api:
        stub = ModelServiceStub(channel)

        async def deploy(name: str) -> None:
            request = deploy_request(f"{name}-ours", namespace)
            ours.append(await _milliseconds(stub.Deploy(request)))

        async def apply(name: str) -> None:
            manifest = manifest_for(deploy_request(f"{name}-bare", namespace), runtimes)
            bare.append(await _milliseconds(api.create(manifest)))
            await _taken_in(stub, pb.GetRequest(namespace=namespace, name=f"{name}-bare"))

        for nth, name in enumerate(names(rounds), start=1):
            for write in (apply, deploy) if nth % 2 else (deploy, apply):
                await write(name)
            if nth % NEWS_EVERY == 0:
                say(f"deploy: {nth} of {rounds}")
    return ours[WARM_UP:], bare[WARM_UP:]


async def _taken_in(stub: ModelServiceAsyncStub, request: pb.GetRequest) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await stub.Get(request)
            except grpc.aio.AioRpcError as e:
                if e.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            else:
                return


async def _milliseconds(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1e3
