"""The outages of docs/clients.md, on two replicas: tests/client/test_outage_table.py has the same
on the local cluster. They happen side by side, since each takes half a minute of waiting."""

from __future__ import annotations

import random
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import Lab, wait_until
from tests.client.outages import BAD, FULL, OUTAGES, Ended, Lengths, documented, play, table

from .interference import Link
from .serving import Replicas, Server

# The lab's node leaves such a pod as it is, so that the tests say what becomes of it.
IMAGE = "lab/played-by-the-test:1"
# Of a pod that serves, and of one whose image is not there.
SERVES = {
    "phase": "Running",
    "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")],
}
RUNNING = {"ready": True, "started": True, "state": {"running": {}}}
NO_IMAGE = {
    "ready": False,
    "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
}


class ReplicasOnTheLab:
    """Two replicas; a link to the API server keeps from the last one what happens."""

    reason = "IMAGE_PULL"

    def __init__(self, lab: Lab, servers: Sequence[Server], link: Link, namespace: str) -> None:
        self.addresses = tuple(server.address for server in servers)
        self.namespace = namespace
        self._lab = lab
        self._servers = servers
        self._link = link

    def request(self, name: str, model: str) -> dict[str, Any]:
        # The name says which it is.
        return {"name": name, "spec": {"container": {"image": IMAGE}}}

    def begun(self, names: Sequence[str]) -> None:
        for name in names:
            wait_until(lambda name=name: self._pods(name), f"the node has the pod of {name}")

    def finish(self) -> None:
        for name in self._names():
            bad = name.endswith(BAD)
            for pod in self._pods(name):
                [container] = pod["status"]["containerStatuses"]
                container |= NO_IMAGE if bad else RUNNING
                status = {"containerStatuses": [container], **({} if bad else SERVES)}
                path = f"{self._path}/{pod['metadata']['name']}/status"
                content_type = "application/strategic-merge-patch+json"
                self._lab.request("PATCH", path, {"status": status}, content_type)

    def kill(self) -> None:
        for server in self._servers:
            server.kill()

    def stop(self, number: int) -> None:
        assert self._servers[number].stop(60.0) == 0

    def start(self) -> None:
        stopped = [server for server in self._servers if server.has_ended]
        for server in stopped:
            server.launch()
        for server in stopped:
            server.wait_ready()

    def fall_behind(self) -> None:
        self._link.swallow(requests=False)

    def catch_up(self) -> None:
        self._link.restore()

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def _names(self) -> list[str]:
        services = f"/apis/serving.kserve.io/v1beta1/namespaces/{self.namespace}/inferenceservices"
        return [service["metadata"]["name"] for service in self._lab.get(services)["items"]]

    def _pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a service that the node has seen."""
        selector = f"labelSelector=serving.kserve.io/inferenceservice%3D{name}"
        pods = self._lab.get(f"{self._path}?{selector}")["items"]
        return [pod for pod in pods if pod["status"].get("containerStatuses")]


class Places:
    """Makes replicas for outages. Those that leave the servers alone share a pair."""

    def __init__(self, lab: Lab, replicas: Replicas, link: Link) -> None:
        self._lab = lab
        self._replicas = replicas
        self._link = link
        self._shared: dict[bool, list[Server]] = {}
        self._made: list[Server] = []

    def servers(self, outage: str) -> list[Server]:
        """Two servers for an outage that are not started yet."""
        _, _, brisk, alone, falls_behind = OUTAGES[outage]
        if alone or brisk not in self._shared:
            program = "tests.client.brisk_server" if brisk else "server"
            behind = self._link.kubeconfig if falls_behind else None
            pair = [
                self._replicas.make(program=program),
                self._replicas.make(program=program, kubeconfig=behind),
            ]
            self._made += pair
            if alone:
                return pair
            self._shared[brisk] = pair
        return self._shared[brisk]

    def start(self) -> None:
        """Start all that were made."""
        for server in self._made:
            server.launch()
        for server in self._made:
            server.wait_ready()

    def close(self) -> None:
        for server in self._made:
            server.close()

    @contextmanager
    def place(self, servers: Sequence[Server]) -> Iterator[ReplicasOnTheLab]:
        name = f"outage-{uuid.uuid4().hex[:10]}"
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self._lab.apply(manifest)
        yield ReplicasOnTheLab(self._lab, servers, self._link, name)
        self._lab.delete(manifest)


Cells = dict[str, Future[dict[str, Ended]]]


@contextmanager
def played(
    lab: Lab, replicas: Replicas, folder: Path, lengths: Callable[[str], Lengths]
) -> Iterator[Cells]:
    """All outages, which have begun."""
    link = Link(lab, replicas.kubeconfig, replicas.folder)
    places = Places(lab, replicas, link)

    def play_one(number: int, outage: str) -> dict[str, Ended]:
        with places.place(pairs[outage]) as place:
            return play(outage, place, folder / str(number), lengths(outage))

    try:
        pairs = {outage: places.servers(outage) for outage in OUTAGES}
        places.start()
        with ThreadPoolExecutor(len(OUTAGES)) as threads:
            numbered = enumerate(OUTAGES)
            yield {outage: threads.submit(play_one, number, outage) for number, outage in numbered}
    finally:
        places.close()
        link.close()


@pytest.fixture(scope="module")
def cells(
    lab: Lab, replicas: Replicas, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cells]:
    folder = tmp_path_factory.mktemp("outages")
    with played(lab, replicas, folder, lambda _: Lengths()) as cells:
        yield cells


@pytest.mark.parametrize("outage", documented())
def test_every_client_sees_each_state_once_and_the_right_end(outage: str, cells: Cells) -> None:
    print(table({outage: cells[outage].result()}))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_outages_of_full_length_that_begin_at_any_time(
    lab: Lab, replicas: Replicas, tmp_path: Path
) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")

    def lengths(outage: str) -> Lengths:
        return Lengths(**FULL, random=random.Random(f"{seed} {outage}"))

    with played(lab, replicas, tmp_path, lengths) as cells:
        found = {outage: future.result() for outage, future in cells.items()}
    print(table(found))
    # A wait does not go back on any replica. modelctl prints some states alike.
    waits = [(name, ended) for cell in found.values() for name, ended in cell.items()]
    assert [name for name, ended in waits if ended.again and "modelctl" not in name] == []
