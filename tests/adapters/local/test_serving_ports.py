"""Services and model servers listen on the ports that an operator gives them, and on no others."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil
import pytest

from lab.port_blocks import own_block
from server.adapters.local.proxy.port_allocator import PortAllocator
from server.domain.rollout.status import FailureReason, State
from tests.adapters.local.server_process import Server, server
from tests.adapters.local.world import children_of, world_of


@pytest.mark.processes
def test_a_service_and_its_model_server_have_the_two_ports_and_nothing_is_left_for_another(
    tmp_path: Path,
) -> None:
    first, last = own_block().ports[:2]
    with server(tmp_path, MODELSERVICE_SERVING_PORTS=f"{first}-{last}") as running:
        running.deploy(tmp_path, "1")
        service = running.wait()
        assert listening(running, tmp_path / "state") == {first, last}
        assert urlsplit(service.status.url).port in (first, last)
        with pytest.raises(grpc.RpcError) as refused:
            running.deploy(tmp_path, "2", "other")
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert f"no port of 127.0.0.1 from {first} to {last} is free" in refused.value.details()


def listening(running: Server, state: Path) -> set[int]:
    """Where the server, beside its own address, and its model servers listen."""
    own = urlsplit(f"//{running.running.address}").port
    processes = [psutil.Process(running.process.pid), *children_of(state)]
    found = {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    return found - {own}


async def test_a_rollout_without_a_port_fails_until_a_server_with_other_ports_keeps_the_address(
    tmp_path: Path,
) -> None:
    ports = own_block().ports
    async with world_of(tmp_path, ports=PortAllocator(ports[:2])) as world:
        before = await world.ready(world.model("1"))
        await world.deploy(world.model("2"))
        failure = (await world.until(State.DEGRADED)).status.failure
        assert failure
        assert failure.reason is FailureReason.NOT_ANSWERING
        assert f"from {ports[0]} to {ports[1]} " in failure.message
        assert "MODELSERVICE_SERVING_PORTS" in failure.remedy
    async with world_of(tmp_path, ports=PortAllocator(ports[2:])) as world:
        after = await world.until(State.READY, generation=2)
        assert after.status.url == before.status.url
        assert await world.generation_of(after) == 2
