"""The ways in that docs/identity.md shows, on a server with TLS, tokens and client certificates."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1.health_pb2_grpc import HealthStub

from lab import Cluster
from lab.port_blocks import own_block
from tests.alone import clean_environment
from tests.api.requests import eventually
from tests.api.test_tls_document import make_certificate
from tests.patience import PATIENCE_SECONDS
from tests.transcript import blocks, transcript

from .asking import model
from .callers import CALLER_ROLES, RBAC
from .kubeconfigs import kubectl_program
from .serving import ROOT, Replicas, Server

DOCUMENT = "docs/identity.md"
Shell = Callable[[str], None]


class CommandFailed(Exception):
    """A command of the document ended with another code than 0."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the documents' lines run: with the certificates that they make."""
    folder = tmp_path_factory.mktemp("identity")
    make_certificate(folder)
    for command in commands("Client certificates"):
        if command.startswith("openssl"):
            subprocess.run(["bash", "-euc", command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def mtls_port() -> int:
    return own_block().next()


@pytest.fixture(scope="module")
def entered(folder: Path, replicas: Replicas, mtls_port: int) -> Iterator[Server]:
    """The server whom all call."""
    server = replicas.make(
        {
            "MODELSERVICE_AUTH": "kubernetes",
            "MODELSERVICE_TLS_CERT": str(folder / "tls.crt"),
            "MODELSERVICE_TLS_KEY": str(folder / "tls.key"),
            "MODELSERVICE_MTLS_LISTEN": f"127.0.0.1:{mtls_port}",
            "MODELSERVICE_CLIENT_CA": str(folder / "clients.crt"),
        }
    )
    server.channel.close()
    tls = grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes())
    named = [("grpc.ssl_target_name_override", "localhost")]
    server.channel = grpc.secure_channel(server.address, tls, options=named)
    server.health = HealthStub(server.channel)
    server.start()
    yield server
    server.close()


@pytest.fixture
def environment(cluster: Cluster, built_grpcurl: Path, folder: Path) -> dict[str, str]:
    programs = f"{kubectl_program().parent}:{built_grpcurl.parent}:{os.environ['PATH']}"
    return clean_environment() | {
        "PATH": programs,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}:{ROOT / 'generated'}",
        "KUBECONFIG": str(cluster.kubeconfig),
        "HOME": str(folder),
    }


@pytest.fixture
def shell(
    cluster: Cluster,
    entered: Server,
    mtls_port: int,
    namespace: str,
    folder: Path,
    environment: dict[str, str],
) -> Shell:
    """Runs a command in the test's namespace, in place of `risk`."""
    for role in CALLER_ROLES.values():
        cluster.apply(role)
    port = entered.address.rpartition(":")[2]

    def run(command: str) -> None:
        command = re.sub(r"\brisk\b", namespace, command)
        command = command.replace(":50051", f":{port}").replace(":50053", f":{mtls_port}")
        command = command.replace("ci/deploy.sh", str(ROOT / "ci/deploy.sh"))
        command = re.sub("^modelctl", f"{sys.executable} -m modelservice_client.cli", command)
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        if done.returncode:
            raise CommandFailed(command, done.returncode, done.stderr)

    return run


def commands(heading: str) -> list[str]:
    return [step.command for step in transcript(DOCUMENT, heading)]


def run_all(shell: Shell, lines: list[str]) -> None:
    """Run the lines of a document. The last one works once the API server knows the rights that
    those before it give."""
    *steps, call = lines
    for step in steps:
        shell(step)

    def works() -> bool:
        try:
            shell(call)
        except CommandFailed:
            return False
        return True

    eventually("the call is allowed", works)


@pytest.mark.parametrize("heading", ["A person", "A CI job", "Client certificates"])
def test_the_callers_of_the_document_get_in(
    shell: Shell, heading: str, namespace: str, folder: Path
) -> None:
    request = {"namespace": namespace, "name": "iris", "spec": json_format.MessageToDict(model())}
    (folder / "deploy.json").write_text(json.dumps(request))
    run_all(shell, [line for line in commands(heading) if not line.startswith("openssl")])


def test_the_service_of_the_document_gets_in(
    shell: Shell, entered: Server, folder: Path, namespace: str, environment: dict[str, str]
) -> None:
    run_all(shell, commands("A CI job")[:-1] + commands("A person")[-1:])
    [program] = blocks(DOCUMENT, "A service", "python")
    replaced = {
        "modelservice.modelservice:50051": f"localhost:{entered.address.rpartition(':')[2]}",
        "/var/run/modelservice/token": "token",
        '"risk"': f'"{namespace}"',
    }
    for shown, here in replaced.items():
        assert shown in program
        program = program.replace(shown, here)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_portal_of_the_document_acts_for_its_user(
    cluster: Cluster, shell: Shell, namespace: str
) -> None:
    try:
        lines = commands("Acting for others")
        run_all(shell, lines)
        acting = re.compile(r"--as jane --as-group risk")
        # Of the portal itself, of another user, and of a group that it may not act in.
        for words in ("", "--as joe", "--as jane --as-group ops"):
            call, number = acting.subn(words, lines[-1])
            assert number == 1
            with pytest.raises(CommandFailed, match="may not"):
                shell(call)
    finally:
        for kind in ("clusterrolebindings", "clusterroles"):
            cluster.request("DELETE", f"/apis/{RBAC}/{kind}/act-for-{namespace}")
