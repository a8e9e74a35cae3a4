"""A whole server whose credentials fail says so, and recovers without a restart."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.alone import Alone
from tests.api_recorders import Authority, recording
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused

from .requests import deploy

pytestmark = pytest.mark.processes

IN_TIME = PATIENCE_SECONDS
V1 = "client.authentication.k8s.io/v1"


class Plugin:
    """A credential plugin that prints what was last said, or fails with a word on stderr."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        script = folder / "plugin"
        # Each time anew for so long: on a slow machine the start takes longer than a credential.
        script.write_text(
            "#!/bin/sh\n"
            'says=$(cat "$(dirname "$0")/says") || { echo no session >&2; exit 1; }\n'
            'ends=$(date -u -d "+${says%% *} seconds" +%Y-%m-%dT%H:%M:%SZ)\n'
            'printf "%s\\n" "${says#* }" | sed "s/ENDS/$ends/"\n'
        )
        script.chmod(0o755)

    def says(self, token: str, ends_in: int) -> None:
        status = {"token": token, "expirationTimestamp": "ENDS"}
        credential = {"kind": "ExecCredential", "apiVersion": V1, "status": status}
        (self._folder / "next").write_text(f"{ends_in} {json.dumps(credential)}")
        (self._folder / "next").rename(self._folder / "says")

    def fails(self) -> None:
        (self._folder / "says").unlink()


def kubeconfig(folder: Path, ca: Authority, port: int) -> str:
    (folder / "ca.pem").write_bytes(ca.pem)
    plugin = {"apiVersion": V1, "command": "./plugin", "interactiveMode": "Never"}
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.pem"}
    document = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "me"}}],
        "clusters": [{"name": "a", "cluster": cluster}],
        "users": [{"name": "me", "user": {"exec": plugin}}],
    }
    (folder / "config").write_text(json.dumps(document))
    return str(folder / "config")


@pytest.mark.parametrize(
    ("ends_in", "event", "message"),
    [
        (
            3600,
            "the API server refuses our credentials",
            "the Kubernetes API server refuses the ModelService server's credentials",
        ),
        (
            12,
            "the credentials for the API server have expired",
            "the ModelService server's credentials for the Kubernetes API server have expired",
        ),
    ],
)
async def test_credentials_that_cannot_be_renewed_are_reported_until_they_can(
    tmp_path: Path, ends_in: float, event: str, message: str
) -> None:
    ca, plugin = Authority("ca"), Plugin(tmp_path)
    tls = ca.issue("127.0.0.1", ["127.0.0.1"])
    async with recording("a", certificate=tls, folder=tmp_path) as api:
        plugin.says("p1", ends_in)
        settings = {"KSERVE_ENABLED": "true", "MODELSERVICE_STOP_DELAY": "0"}
        settings["KUBERNETES_KUBECONFIG"] = kubeconfig(tmp_path, ca, api.port)
        server = await asyncio.to_thread(Alone, "server", settings)
        try:
            for service in ("cluster", ""):
                await asyncio.to_thread(wait_for_health, server, service, True)
            plugin.fails()
            if ends_in > IN_TIME:
                api.tokens = {"p2"}
            await asyncio.to_thread(wait_for_health, server, "cluster", False)
            await asyncio.to_thread(wait_for, lambda: bool(server.events(event)))
            await asyncio.to_thread(fail_to_deploy, server, message)
            await asyncio.to_thread(wait_for_health, server, "", True)

            plugin.says("p2", 3600)
            await asyncio.to_thread(wait_for_health, server, "cluster", True)
        finally:
            assert await asyncio.to_thread(server.stop) == 0
            server.process.stderr.close()

    assert {dict(asked.identity)["authorization"] for asked in api.asked} == {
        "Bearer p1",
        "Bearer p2",
    }
    [line] = server.events("credentials cannot be renewed")
    assert line["why"].endswith(
        f"users[me].user.exec: the plugin {tmp_path}/plugin ended with 1: no session"
    )
    assert len(server.events(event)) == 1
    assert len(server.events("credentials are renewed again")) == 1


def wait_for_health(server: Alone, service: str, serving: bool) -> None:
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = HealthCheckRequest(service=service)
        wait_for(lambda: (check(request).status == HealthCheckResponse.SERVING) == serving)


async def test_reads_of_a_server_whose_credentials_are_refused_from_the_start_report_it(
    tmp_path: Path,
) -> None:
    ca, plugin = Authority("ca"), Plugin(tmp_path)
    tls = ca.issue("127.0.0.1", ["127.0.0.1"])
    async with recording("a", certificate=tls, folder=tmp_path) as api:
        api.tokens = set()
        plugin.says("secret", 3600)
        settings = {"KSERVE_ENABLED": "true", "MODELSERVICE_STOP_DELAY": "0"}
        settings["KUBERNETES_KUBECONFIG"] = kubeconfig(tmp_path, ca, api.port)
        server = await asyncio.to_thread(Alone, "server", settings)
        try:
            await asyncio.to_thread(
                wait_for, lambda: bool(server.events("the API server refuses our credentials"))
            )
            await asyncio.to_thread(fail_to_read, server)
        finally:
            assert await asyncio.to_thread(server.stop) == 0
            server.process.stderr.close()


def fail_to_deploy(server: Alone, message: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        told_of_credentials(ModelServiceStub(channel).Deploy, deploy("svc"), message)


def fail_to_read(server: Alone) -> None:
    refuses = "the Kubernetes API server refuses the ModelService server's credentials"
    with grpc.insecure_channel(server.address) as channel:
        stub = ModelServiceStub(channel)
        told_of_credentials(stub.Get, pb.GetRequest(name="svc"), refuses)
        told_of_credentials(stub.List, pb.ListRequest(), refuses)


def told_of_credentials(call: Any, request: Any, message: str) -> None:
    refusal = refused(StatusCode.UNAVAILABLE, "SERVER_CREDENTIALS_REFUSED", call, request)
    assert refusal.message == (
        f"{message}; ask the operator of the server to renew them; nothing was written"
    )
    assert refusal.retry_after == timedelta(seconds=30)


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + IN_TIME
    while not condition():
        assert time.monotonic() < ends, f"still not so after {IN_TIME} s"
        time.sleep(0.05)
