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

SERVICES = 8
EXHAUSTED = StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.timeout(300)
def test_the_largest_services_take_no_more_than_the_share_says_until_they_are_refused(
    replica: StartReplica, namespace: str
) -> None:
    room = SERVICES * (LARGEST_BYTES + 20_000)
    server = replica(
        {"MODELSERVICE_SERVICES_MEMORY": str(room), "MODELSERVICE_NAMESPACES": namespace}
    )
    server.stub.Deploy(largest(namespace, "warm"))
    delete(server, namespace, "warm")
    before = resident(server)
    for number in range(SERVICES):
        server.stub.Deploy(largest(namespace, f"large-{number}"))
        server.stub.Get(pb.GetRequest(namespace=namespace, name=f"large-{number}"))
    refused(EXHAUSTED, "MEMORY_EXCEEDED", server.stub.Deploy, largest(namespace, "more"))
    # Beside what is kept: answers that were rendered, and what JSON is read from.
    assert resident(server) - before < 3 * room
    # Nothing else is refused, and what makes room is no refusal later on.
    again = server.stub.Deploy(largest(namespace, "large-0"))
    assert again.action == pb.DeployResponse.ACTION_UNCHANGED
    server.stub.Deploy(smallest(namespace, "large-1"))
    server.stub.Deploy(largest(namespace, "more"))
    delete(server, namespace, "more")
    server.stub.Deploy(largest(namespace, "another"))


def delete(server: Server, namespace: str, name: str) -> None:
    """Delete a service, and wait until it is gone."""
    server.stub.Delete(pb.DeleteRequest(namespace=namespace, name=name))
    gone = pb.WatchStatusRequest(
        namespace=namespace, name=name, until=pb.WatchStatusRequest.UNTIL_GONE
    )
    list(server.stub.WatchStatus(gone, timeout=60))


def resident(server: Server) -> int:
    """The most of a few looks: objects that KServe makes of a service come a moment later."""
    assert server.pid
    process, looks = psutil.Process(server.pid), []
    for _ in range(5):
        looks.append(int(process.memory_info().rss))
        time.sleep(0.2)
    return max(looks)
