"""Servers in processes of their own: ours over a cluster in memory, and a bare one beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.http2 import grpc_message

ROOT = Path(__file__).parents[2]
SERVING_SECONDS = 60.0
QUIET_SECONDS = 20.0


class PeerFailed(RuntimeError):
    """A server to measure did not start; the message has what it said."""


class Peer:
    """A server that listens."""

    def __init__(self, address: str, pid: int) -> None:
        self.address = address
        self._process = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """What the process has used so far, in all of its threads."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        """The process's resident memory, once it is at rest."""
        ends = time.monotonic() + QUIET_SECONDS
        used = self.cpu_seconds()
        while time.monotonic() < ends:
            time.sleep(0.5)
            before, used = used, self.cpu_seconds()
            if used - before < 0.05:
                break
        return self.resident_bytes()

    def resident_bytes(self) -> int:
        """The process's resident memory as it is now."""
        return int(self._process.memory_info().rss)


@contextmanager
def memory_server(
    folder: Path,
    registry_url: str = "",
    settings: Mapping[str, str] | None = None,
    channel_to: Callable[[str], grpc.Channel] = grpc.insecure_channel,
    arguments: Sequence[str] = (),
) -> Iterator[Peer]:
    """The whole server, logging to a file as in production, over a cluster in memory, and with the
    registry of this URL, these settings, and these arguments of `memory_server`."""
    given = {"MODELSERVICE_DATABASE_URL": registry_url} | dict(settings or {})
    with _running("memory_server", arguments, folder, given) as peer:
        with channel_to(peer.address) as channel:
            wait_serving(channel)
        yield peer


@contextmanager
def bare_server(
    folder: Path, answers: dict[str, bytes], tls: tuple[Path, Path] | None = None
) -> Iterator[Peer]:
    """grpc.aio and nothing else: each of these methods answers these bytes, in plaintext without
    the certificate and the key of `tls`."""
    arguments = ["--tls", *map(str, tls)] if tls else []
    for name, answer in answers.items():
        path = folder / f"{name}.bytes"
        path.write_bytes(answer)
        arguments.append(str(path))
    with _running("bare_server", arguments, folder, {}) as peer:
        yield peer


@contextmanager
def bare_watch_server(folder: Path, opening: Sequence[bytes], changed: bytes) -> Iterator[Peer]:
    """grpc.aio and nothing else: these messages at the beginning of each WatchStatus, and the
    other one to all of them at each Deploy."""
    paths = []
    for name, messages in (("opening", opening), ("changed", [changed])):
        paths.append(folder / f"{name}.messages")
        paths[-1].write_bytes(b"".join(map(grpc_message, messages)))
    with _running("bare_watch_server", list(map(str, paths)), folder, {}) as peer:
        yield peer


def wait_serving(channel: grpc.Channel) -> None:
    """Return once health says SERVING. Raises PeerFailed."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=SERVING_SECONDS
    )
    try:
        for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
    except grpc.RpcError as error:
        raise PeerFailed(f"the server does not become SERVING: {error}") from error
    finally:
        watch.cancel()


@contextmanager
def _running(
    module: str, arguments: Sequence[str], folder: Path, settings: Mapping[str, str]
) -> Iterator[Peer]:
    log = folder / f"{module}.log"
    path = os.pathsep.join([str(ROOT), str(ROOT / "generated")])
    with log.open("ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
            env=os.environ | {"PYTHONPATH": path, "GRPC_VERBOSITY": "NONE"} | settings,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
        )
    try:
        assert process.stdout
        port = process.stdout.readline().strip()
        if not port:
            raise PeerFailed(f"{module} did not start:\n{log.read_text()[-2000:]}")
        yield Peer(f"127.0.0.1:{port}", process.pid)
    finally:
        process.kill()
        process.communicate()
