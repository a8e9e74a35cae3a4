"""From the start of the process to SERVING, beside one HTTP client's list of the same kinds."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from lab import Lab, wait_until
from lab.processes import accepts
from server.adapters.kserve.informers.collections import followed
from tests.cluster.serving import Replicas, install, serving

from .comparing import Comparison, Say
from .peers import wait_serving
from .raw_api import manifest_for, raw_api
from .samples import deploy_request, names


def measure_start(
    say: Say, lab: Lab, *, namespace: str, services: int, rounds: int, folder: Path
) -> list[Comparison]:
    """With KServe stopped, so that nothing changes meanwhile."""
    kubeconfig = install(lab)
    imports: list[float] = []
    syncs: list[float] = []
    lists: list[float] = []
    with lab.kserve_stopped(), serving(kubeconfig, folder) as replicas:
        _write(lab, namespace, services)
        say(f"start: wrote {services:,} services")
        for _ in range(rounds):
            lists.append(asyncio.run(_list_all(lab, kubeconfig, services)))
            imported, synced = _start(replicas)
            imports.append(imported)
            syncs.append(synced)
            say(f"start: {imported:.2f} s to listen, {synced:.2f} s more to serve")
    what = f"on {services:,} services"
    return [
        Comparison(
            f"Listening to SERVING {what}", "s", syncs, lists, "raw lists, same kinds", aim_most=3
        ),
        Comparison("Process start and imports", "s", imports, lists, "the same lists"),
    ]


def _write(lab: Lab, namespace: str, services: int) -> None:
    def write(name: str) -> None:
        lab.apply(manifest_for(deploy_request(name, namespace)), field_manager="modelservice")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, names(services)))


async def _list_all(lab: Lab, kubeconfig: Path, expected: int) -> float:
    began = time.perf_counter()
    async with raw_api(lab, kubeconfig) as api:
        # This lab is without Knative, whose collections are followed where they are.
        there = [r for r in followed(()) if not r.optional]
        found = [await api.list(r.path, dict(r.selector)) for r in there]
    took = time.perf_counter() - began
    assert found[0] >= expected, f"{found[0]} services listed of {expected}"
    return took


def _start(replicas: Replicas) -> tuple[float, float]:
    """Seconds from the start of the process to listening, and from there to SERVING."""
    server = replicas.make({"PYTHONDONTWRITEBYTECODE": ""})  # installed servers have bytecode
    began = time.perf_counter()
    server.launch()
    try:
        wait_until(lambda: accepts(int(server.address.rpartition(":")[2])), "the server listens")
        listening = time.perf_counter()
        with grpc.insecure_channel(server.address) as channel:
            wait_serving(channel)
        return listening - began, time.perf_counter() - listening
    finally:
        server.close()
