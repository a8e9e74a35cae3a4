"""From the start of the process to SERVING, beside one HTTP client's list of the same kinds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc

from lab import Lab, wait_until
from lab.processes import accepts
from server.adapters.kserve.informers.collections import followed
from tests.cluster.serving import Replicas, install, serving

from .comparing import Comparison, Say
from .peers import Peer, wait_serving
from .raw_api import manifest_for, raw_api
from .samples import deploy_request, names


class _Start(NamedTuple):
    """Seconds until the process listens, and from there to SERVING; its bytes of memory then."""

    imports: float
    sync: float
    memory: int


class _Lists(NamedTuple):
    """The seconds for all lists, and the bytes of an InferenceService in JSON."""

    seconds: float
    service_bytes: float


def measure_start(
    say: Say, lab: Lab, *, namespace: str, sizes: Sequence[int], rounds: int, folder: Path
) -> list[Comparison]:
    """With so many services, with KServe stopped, so that nothing changes meanwhile."""
    kubeconfig = install(lab)
    compared: list[Comparison] = []
    with lab.kserve_stopped(), serving(kubeconfig, folder) as replicas:
        empty = _start(replicas).memory
        before = 0
        for services in sizes:
            _write(lab, namespace, names(services)[before:])
            before = services
            say(f"start: wrote {services:,} services")
            starts: list[_Start] = []
            lists: list[_Lists] = []
            for _ in range(rounds):
                lists.append(asyncio.run(_list_all(lab, kubeconfig, services)))
                starts.append(_start(replicas))
                took = starts[-1]
                say(f"start: {took.imports:.2f} s to listen, {took.sync:.2f} s more to serve")
            compared += _comparisons(services, starts, lists, empty)
    return compared


def _comparisons(
    services: int, starts: Sequence[_Start], lists: Sequence[_Lists], empty: int
) -> list[Comparison]:
    syncs, imports = [s.sync for s in starts], [s.imports for s in starts]
    raw = [listed.seconds for listed in lists]
    memory = [(s.memory - empty) / services / 2**10 for s in starts]
    json = [listed.service_bytes / 2**10 for listed in lists]
    on = f"on {services:,} services"
    return [
        Comparison(
            f"Listening to SERVING {on}", "s", syncs, raw, "raw lists, same kinds", aim_most=1.5
        ),
        Comparison(f"Process start and imports {on}", "s", imports, raw, "the same lists"),
        # 10 KiB, where the JSON has 4.3.
        Comparison(f"Memory {on}", "KiB/service", memory, json, "its JSON", aim_most=2.3),
    ]


def _write(lab: Lab, namespace: str, chosen: Sequence[str]) -> None:
    def write(name: str) -> None:
        lab.apply(manifest_for(deploy_request(name, namespace)), field_manager="modelservice")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, chosen))


async def _list_all(lab: Lab, kubeconfig: Path, expected: int) -> _Lists:
    began = time.perf_counter()
    async with raw_api(lab, kubeconfig) as api:
        # This lab is without Knative, whose collections are followed where they are.
        there = [r for r in followed(()) if not r.optional]
        found = [await api.list(r.path, dict(r.selector)) for r in there]
    took = time.perf_counter() - began
    services = found[0]
    assert services.objects >= expected, f"{services.objects} services listed of {expected}"
    return _Lists(took, services.bytes / services.objects)


def _start(replicas: Replicas) -> _Start:
    server = replicas.make({"PYTHONDONTWRITEBYTECODE": ""})  # installed servers have bytecode
    began = time.perf_counter()
    server.launch()
    try:
        wait_until(lambda: accepts(int(server.address.rpartition(":")[2])), "the server listens")
        listening = time.perf_counter()
        with grpc.insecure_channel(server.address) as channel:
            wait_serving(channel)
        synced = time.perf_counter()
        memory = Peer(server.address, server.pid).memory_bytes()
        return _Start(listening - began, synced - listening, memory)
    finally:
        server.close()
