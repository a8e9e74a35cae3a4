"""Clients of both kinds over real sockets while the server, or the way to it, is away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import (
    InferenceService,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
)
from modelservice_client import Retrying

from lab.port_blocks import own_block
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from tests.adapters.local.file_server import file_server
from tests.adapters.local.server_process import kill, server
from tests.api.requests import READY, container, key
from tests.client.faces import FACES, Face, client
from tests.client.replicas import Replicas, replicas
from tests.client.tcp_proxy import TcpProxy, tcp_proxy
from tests.client.test_faces import eventually
from tests.cluster.cutting_proxy import cutting_proxy
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


class Wait:
    """A deploy-and-wait of one client, and the states that it was shown."""

    def __init__(self, face: Face, name: str, spec: InferenceServiceSpec) -> None:
        self.name = name
        self.states: list[InferenceService] = []
        self.task = asyncio.create_task(
            face.call(
                "deploy_and_wait",
                name=name,
                spec=spec,
                timeout=PATIENCE_SECONDS,
                on_change=self.states.append,
            )
        )

    async def shows(self, text: str) -> None:
        """Wait until a state with this message is shown."""
        await eventually(
            f"{text} is shown", lambda: self.task.done() or any(text in t for t in self.messages)
        )
        if self.task.done():
            self.task.result()

    @property
    def messages(self) -> list[str]:
        return [state.status.message for state in self.states]

    async def is_ready(self, texts: Sequence[str] | None = None) -> None:
        """Wait for the end: it is ready, nothing was shown twice, and of one rollout only."""
        service = await self.task
        assert service.status.state == READY
        assert self.states[-1] == service
        assert {state.rollout_id for state in self.states} == {service.rollout_id}
        assert [a for a, b in zip(self.states, self.states[1:], strict=False) if a == b] == []
        if texts is not None:
            shown = [text for text in self.messages if text in texts]
            assert shown == list(texts)


@asynccontextmanager
async def waits(
    address: str, name: str, spec: InferenceServiceSpec | None = None, **named: Any
) -> AsyncIterator[list[Wait]]:
    """A deploy-and-wait of each kind of client, for services of their own."""
    async with AsyncExitStack() as stack:
        found = []
        for kind in FACES:
            face = await stack.enter_async_context(client(kind, address, **named))
            found.append(Wait(face, f"{name}-{kind}", spec or container()))
        yield found


@pytest.fixture(scope="module")
def both() -> Iterator[Replicas]:
    with replicas() as both:
        yield both


@pytest.fixture
def proxy(both: Replicas) -> Iterator[TcpProxy]:
    with tcp_proxy(both.addresses[0]) as proxy:
        yield proxy


def show(both: Replicas, waits: list[Wait], text: str, state: State = State.PROGRESSING) -> None:
    """Let the rollouts be in a state."""
    for wait in waits:
        both.inside(both.clusters[0].set_status, key(wait.name), Status(state, text))


async def test_a_proxy_that_cuts_again_and_again(
    both: Replicas, proxy: TcpProxy, name: str
) -> None:
    texts = [f"step {number}" for number in range(4)]
    async with waits(proxy.address, name) as running:
        for wait in running:
            await wait.shows("")
        for text in texts:
            proxy.cut()
            show(both, running, text)
            for wait in running:
                await wait.shows(text)
        proxy.cut()
        show(both, running, "", State.READY)
        for wait in running:
            await wait.is_ready(texts)
            service = both.inside(both.clusters[0].store.service, key(wait.name))
            assert service.generation == 1


async def test_a_black_hole_is_noticed_and_left(both: Replicas, proxy: TcpProxy, name: str) -> None:
    briskly = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.http2.ping_timeout_ms", 1000),
    ]
    async with waits(proxy.address, name, options=briskly) as running:
        for wait in running:
            await wait.shows("")
        proxy.black_hole()
        show(both, running, "", State.READY)
        for wait in running:
            await wait.is_ready()


async def test_a_replica_that_is_behind_never_shows_the_time_before(
    both: Replicas, proxy: TcpProxy, name: str
) -> None:
    both.inside(both.clusters[1].hold_feed)
    retries: list[Retrying] = []
    async with waits(proxy.address, name, on_retry=retries.append) as running:
        for wait in running:
            await wait.shows("")
        show(both, running, "seen by one replica")
        for wait in running:
            await wait.shows("seen by one replica")
        proxy.backends = (both.addresses[1],)
        proxy.cut()
        await eventually(
            "both met the replica that is behind",
            lambda: [retry.error.reason for retry in retries].count("VIEW_BEHIND") >= 2,
        )
        both.inside(both.clusters[1].release_feed)
        show(both, running, "", State.READY)
        for wait in running:
            await wait.is_ready(["seen by one replica"])


async def test_a_rolling_restart() -> None:
    with replicas() as both, tcp_proxy(both.addresses[0]) as proxy:
        async with waits(proxy.address, "rolling") as running:
            for wait in running:
                await wait.shows("")
            proxy.backends, before = (both.addresses[1],), proxy.accepted
            both.stop(0)
            await eventually("both have come back", lambda: proxy.accepted >= before + 2)
            show(both, running, "", State.READY)
            for wait in running:
                await wait.is_ready()


async def test_connections_that_age(both: Replicas, name: str) -> None:
    age = (("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 100))
    with cutting_proxy(both.addresses[0], *age) as proxy:
        async with waits(proxy.address, name) as running:
            await eventually("it aged", lambda: proxy.passed.count("WatchStatus") >= 6)
            show(both, running, "", State.READY)
            for wait in running:
                await wait.is_ready()


async def test_a_proxy_with_codes_of_its_own_is_asked_again(both: Replicas, name: str) -> None:
    with cutting_proxy(both.addresses[0]) as proxy:
        proxy.cuts["Deploy"] = [StatusCode.INTERNAL, StatusCode.UNKNOWN]
        codes = [StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.CANCELLED]
        proxy.cuts["WatchStatus"] = codes * 2
        async with waits(proxy.address, name) as running:
            await eventually("every cut was made", lambda: not proxy.cuts["WatchStatus"])
            show(both, running, "", State.READY)
            for wait in running:
                await wait.is_ready()
            assert proxy.passed.count("Deploy") == 4


@pytest.mark.processes
async def test_ctrl_c_ends_a_wait_at_once_and_leaves_the_rollout_alone(
    both: Replicas, proxy: TcpProxy, name: str
) -> None:
    with waiting_process(proxy.address, name) as process:
        assert process.stdout
        assert await asyncio.to_thread(process.stdout.readline) == "PENDING\n"
        process.send_signal(signal.SIGINT)
        out, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
        assert "KeyboardInterrupt" in errors
        assert (process.returncode, out) == (-signal.SIGINT, "")
    stored = both.inside(both.clusters[0].store.service, key(name))
    assert (stored.status.state, stored.delete_time) == (State.PENDING, None)


WAITING = """
import sys
from modelservice.v1 import inference_service_pb2 as v1
from modelservice_client import Client

spec = v1.InferenceServiceSpec(container=v1.ContainerPredictor(image="example.org/model:1"))
State = v1.InferenceServiceStatus.State

def show(service):
    print(State.Name(service.status.state).removeprefix("STATE_"), flush=True)

with Client(sys.argv[1]) as client:
    client.deploy_and_wait(name=sys.argv[2], spec=spec, on_change=show)
"""


@contextmanager
def waiting_process(address: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """A program of its own that deploys and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, address, name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'generated'}:{ROOT / 'client'}"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.processes
async def test_a_server_that_is_away_at_first_is_killed_and_stopped(tmp_path: Path) -> None:
    """The local cluster, whose server is a process."""
    address = f"127.0.0.1:{own_block().next()}"
    with file_server() as files:
        files.files["/model.json"] = b"{}"
        files.stuck.add("/model.json")
        model = ModelPredictor(
            format=ModelFormat(name="test"), storage_uri=files.url("/model.json")
        )
        async with waits(address, "iris", InferenceServiceSpec(model=model)) as running:
            with server(tmp_path, MODELSERVICE_LISTEN=address) as running_server:
                for wait in running:
                    await wait.shows("downloading the model")
                await asyncio.to_thread(kill, running_server)
            with server(tmp_path, MODELSERVICE_LISTEN=address) as running_server:
                await asyncio.to_thread(running_server.running.stop)
            files.stuck.clear()
            with server(tmp_path, MODELSERVICE_LISTEN=address):
                for wait in running:
                    await wait.is_ready()
