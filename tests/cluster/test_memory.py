"""What services take of the server's memory on KServe, and what it does when they take too much."""

from __future__ import annotations

import time

import psutil
import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb

from tests.refusals import refused

from .fixtures import StartReplica
from .largest import LARGEST_BYTES, largest, smallest
from .serving import Server

SERVICES = 6
ONCE = 24 * 2**20
EXHAUSTED = StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.timeout(300)
def test_the_largest_services_take_no_more_than_they_count_until_they_are_refused(
    replica: StartReplica, namespace: str
) -> None:
    room = SERVICES * (LARGEST_BYTES + 30_000)
    server = replica(
        {"MODELSERVICE_SERVICES_MEMORY": str(room), "MODELSERVICE_NAMESPACES": namespace}
    )
    before = resident(server)
    for number in range(SERVICES):
        server.stub.Deploy(largest(namespace, f"large-{number}"))
        server.stub.Get(pb.GetRequest(namespace=namespace, name=f"large-{number}"))
    refused(EXHAUSTED, "MEMORY_EXCEEDED", server.stub.Deploy, largest(namespace, "more"))
    # Beside what is kept: answers that were rendered, and what large ones are read in.
    assert resident(server) - before < 2 * room + ONCE
    # Nothing else is refused, and what makes room is no refusal later on.
    again = server.stub.Deploy(largest(namespace, "large-0"))
    assert again.action == pb.DeployResponse.ACTION_UNCHANGED
    server.stub.Deploy(smallest(namespace, "large-1"))
    server.stub.Deploy(largest(namespace, "more"))


def resident(server: Server) -> int:
    """The most of a few looks: objects that KServe makes of a service come a moment later."""
    assert server.pid
    process, looks = psutil.Process(server.pid), []
    for _ in range(5):
        looks.append(int(process.memory_info().rss))
        time.sleep(0.2)
    return max(looks)
