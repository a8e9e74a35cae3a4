"""Deploy through the server, beside the server-side apply of the same object by one HTTP client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from tests.cluster.serving import install, serving

from .comparing import Comparison, Say
from .raw_api import RawApi, manifest_for, raw_api
from .samples import deploy_request, names

if TYPE_CHECKING:
    from modelservice.v1.model_service_pb2_grpc import ModelServiceAsyncStub

WARM_UP = 5
NEWS_EVERY = 25


def measure_deploy(say: Say, lab: Lab, *, namespace: str, rounds: int, folder: Path) -> Comparison:
    """New services, in turn by either; both act with the same rights, KServe at work beside."""
    kubeconfig = install(lab)
    with serving(kubeconfig, folder) as replicas:
        address = replicas.start().address
        ours, bare = asyncio.run(
            _side_by_side(say, lab, address, kubeconfig, names(rounds + WARM_UP), namespace)
        )
    return Comparison("Deploy", "ms", ours, bare, "raw server-side apply", aim_most=1.12)


async def _side_by_side(
    say: Say, lab: Lab, address: str, kubeconfig: Path, chosen: list[str], namespace: str
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel, raw_api(lab, kubeconfig) as api:
        stub = ModelServiceStub(channel)
        for name in chosen:
            bare.append(await _apply(api, f"{name}-bare", namespace))
            ours.append(await _deploy(stub, f"{name}-ours", namespace))
            if len(ours) % NEWS_EVERY == 0:
                say(f"deploy: {len(ours)} of {len(chosen)}")
    return ours[WARM_UP:], bare[WARM_UP:]


async def _apply(api: RawApi, name: str, namespace: str) -> float:
    manifest = manifest_for(deploy_request(name, namespace))
    return await _milliseconds(api.create(manifest))


async def _deploy(stub: ModelServiceAsyncStub, name: str, namespace: str) -> float:
    request = deploy_request(name, namespace)
    return await _milliseconds(stub.Deploy(request))


async def _milliseconds(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1e3
