"""Replicas are stopped and killed under watches, which go on at another one with their tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService

from lab import Cluster
from tests.patience import PATIENCE_SECONDS

from .asking import State
from .fixtures import StartReplica
from .meanwhile import OBJECT
from .resuming import ResumingReader, resuming_readers
from .serving import STOP_SECONDS, Server

# The promise; only a quiet machine can be held to it.
WITHIN_SECONDS = 5.0


class Services:
    """Services on the cluster, that are changed beside the server, as kubectl does."""

    def __init__(self, cluster: Cluster, namespace: str, number: int) -> None:
        self.names = [f"service-{n}" for n in range(number)]
        self._cluster = cluster
        self._namespace = namespace
        self._images = count(1)
        cluster.apply_all([self._manifest(name) for name in self.names])

    def change(self, name: str) -> None:
        """Begin another rollout."""
        image = {
            "op": "replace",
            "path": "/spec/predictor/containers/0/image",
            "value": f"any:{next(self._images)}",
        }
        path = OBJECT.format(self._namespace, name)
        self._cluster.request("PATCH", path, [image], "application/json-patch+json")

    def change_all(self) -> None:
        """Begin another rollout of each."""
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(self.change, self.names))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change one after another, again and again, for the length of a block."""
        over = threading.Event()

        def change() -> None:
            while not over.is_set():
                for name in self.names:
                    self.change(name)
                    over.wait(0.2)

        with ThreadPoolExecutor(1) as threads:
            changing = threads.submit(change)
            try:
                yield
            finally:
                over.set()
            changing.result()

    def written(self) -> dict[str, int]:
        """The generation of each by its name."""
        items = self._cluster.get(OBJECT.format(self._namespace, "").rstrip("/"))["items"]
        return {item["metadata"]["name"]: item["metadata"]["generation"] for item in items}

    def shown(self, server: Server) -> dict[str, InferenceService]:
        """All by name as a replica shows them."""
        request = pb.ListRequest(namespace=self._namespace, page_size=1000)
        return {service.name: service for service in server.stub.List(request).services}

    def are_settled(self, server: Server) -> bool:
        """Report whether a replica shows each READY as it was written last."""
        shown = self.shown(server)
        return {name: s.generation for name, s in shown.items()} == self.written() and all(
            s.status.state == State.STATE_READY for s in shown.values()
        )

    def _manifest(self, name: str) -> dict[str, object]:
        containers = [{"name": "kserve-container", "image": "any:0"}]
        return {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": {"predictor": {"containers": containers}},
        }


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition that may block."""
    async with asyncio.timeout(PATIENCE_SECONDS * 3):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.1)


async def test_a_rolling_restart_repeats_and_loses_no_state(
    cluster: Cluster, namespace: str, replica: StartReplica
) -> None:
    await restart_under_watches(Services(cluster, namespace, 10), namespace, replica, watches=50)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_rolling_restart_under_1000_watches_repeats_and_loses_no_state(
    cluster: Cluster, namespace: str, replica: StartReplica
) -> None:
    await restart_under_watches(Services(cluster, namespace, 50), namespace, replica, watches=1000)


async def test_a_killed_replica_leaves_no_watch_without_the_final_states(
    cluster: Cluster, namespace: str, replica: StartReplica
) -> None:
    late = await kill_under_watches(Services(cluster, namespace, 20), namespace, replica)
    assert late < PATIENCE_SECONDS


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_killed_replica_leaves_no_watch_of_200_5_s_without_the_final_states(
    cluster: Cluster, namespace: str, replica: StartReplica
) -> None:
    late = await kill_under_watches(Services(cluster, namespace, 200), namespace, replica)
    assert late < WITHIN_SECONDS


async def restart_under_watches(
    services: Services, namespace: str, replica: StartReplica, *, watches: int
) -> None:
    servers = [replica(), replica()]
    await all_settled(services, servers)
    watched = [services.names[n % len(services.names)] for n in range(watches)]
    async with (
        resuming_readers(addresses(servers), namespace, watched[::2]) as some,
        resuming_readers(addresses(servers[::-1]), namespace, watched[1::2]) as others,
    ):
        readers = [*some, *others]
        await until(lambda: all(reader.last for reader in readers), "each has its service")
        with services.changing():
            for server in servers:
                await asyncio.to_thread(server.stop, STOP_SECONDS)
                await asyncio.to_thread(server.start)
        await all_have_the_final_states(readers, services, servers)
    for reader in readers:
        reader.assert_is_a_history()
        assert reader.ends, "its replica was stopped"


async def kill_under_watches(services: Services, namespace: str, replica: StartReplica) -> float:
    """Return the most seconds that a reader had a final state after the other replica had it."""
    killed, other = replica(), replica()
    await all_settled(services, [killed, other])
    async with (
        resuming_readers(addresses([killed, other]), namespace, services.names) as readers,
        resuming_readers(addresses([other]), namespace, services.names) as steady,
    ):
        everyone = [*readers, *steady]
        await until(lambda: all(reader.last for reader in everyone), "each has its service")
        changes = asyncio.create_task(asyncio.to_thread(services.change_all))
        await until(lambda: any(is_changed(reader) for reader in readers), "one has a change")
        await asyncio.to_thread(killed.kill)
        await changes
        await all_have_the_final_states(everyone, services, [other])
    for reader in everyone:
        reader.assert_is_a_history()
    assert all(reader.ends for reader in readers), "their replica was killed"
    pairs = zip(readers, steady, strict=True)
    late = max(reader.last_state_at - beside.last_state_at for reader, beside in pairs)
    print(f"the last reader had its final state {late:.2f} s after the other replica")
    return late


def is_changed(reader: ResumingReader) -> bool:
    return reader.last is not None and reader.last.generation > 1


async def all_settled(services: Services, servers: Sequence[Server]) -> None:
    for server in servers:
        await until(partial(services.are_settled, server), "all are READY")


async def all_have_the_final_states(
    readers: Sequence[ResumingReader], services: Services, servers: Sequence[Server]
) -> None:
    await all_settled(services, servers)

    def all_have() -> bool:
        shown = services.shown(servers[0])
        return all(reader.has_sent(shown[reader.name]) for reader in readers)

    await until(all_have, "each has the final state of its service")


def addresses(servers: Sequence[Server]) -> list[str]:
    return [server.address for server in servers]
