"""The server under attack, with its pod's limits, and the client that measures it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1.model_service_pb2 import DeployRequest, WatchStatusRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.domain.kubernetes.quantities import value
from tests.adapters.local.server_process import settings
from tests.adapters.local.serving import model
from tests.alone import clean_environment
from tests.api.token_files import entry, token_of

from . import ROOT

Metadata = Sequence[tuple[str, str]]
# What the well-behaved client asks for, and its name where callers have one.
SERVED = "well-behaved"
ATTACKER = "attacker"
STARTS_WITHIN_SECONDS = 120.0
STOPS_WITHIN_SECONDS = 60.0
GET_EVERY_SECONDS = 0.025
MODEL_SIZE_LIMIT = 64 << 20
_OPEN_FILES = 65_536


class Measured(NamedTuple):
    """A call of the well-behaved client, or a probe."""

    what: str
    due: float
    ms: float
    code: str


class PodLimits(NamedTuple):
    """What k8s/base gives to the server's pod."""

    memory_bytes: int
    probe_timeout_seconds: float
    probes_until_killed: int

    @classmethod
    def read(cls) -> PodLimits:
        manifest = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
        container = manifest["spec"]["template"]["spec"]["containers"][0]
        probe = container["livenessProbe"]
        return cls(
            int(value(container["resources"]["limits"]["memory"])),
            # Both as Kubernetes has them by default.
            float(probe.get("timeoutSeconds", 1)),
            int(probe.get("failureThreshold", 3)),
        )


class Target:
    """A running server, and what was logged and measured of it so far. `metadata`: that of the
    attacker's calls."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: Path,
        limits: PodLimits,
        metadata: Metadata = (),
    ) -> None:
        self.process = process
        self.limits = limits
        self.metadata = metadata
        self.measured: list[Measured] = []
        self._log = log
        self.address = self._listening()
        self.folder = log.parent

    def log_size(self) -> int:
        return self._log.stat().st_size

    def logged(self, since: int) -> Iterator[dict[str, Any]]:
        """The lines since a size of the log; a line that is none of ours under "unreadable"."""
        with self._log.open("rb") as log:
            log.seek(since)
            for line in log:
                try:
                    yield json.loads(line)
                except ValueError:
                    yield {"event": "unreadable", "level": "error", "line": line[:200]}

    def forget_peak(self) -> None:
        """Count the peak of memory anew from now on."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def memory_bytes(self, what: str = "VmRSS") -> int:
        """What is resident; the most since `forget_peak` as VmHWM."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) << 10
        raise AssertionError("the server is gone")

    def waited_seconds(self) -> float:
        """How long its event loop's thread was ready and had no CPU, since it began."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9

    def _listening(self) -> str:
        ends = time.monotonic() + STARTS_WITHIN_SECONDS
        while time.monotonic() < ends and self.process.poll() is None:
            for line in self.logged(0):
                if line["event"] == "listening":
                    return str(line["address"])
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start: {self._log.read_text()[-2000:]}")


@contextmanager
def running_target(
    folder: Path, *, identities: bool = False, measured: bool = True
) -> Iterator[Target]:
    """The server on a local cluster in this folder, with one service that is READY, measured for
    the length of the block. With `identities` the attacker is one caller, and the client another.
    """
    _permit_many_files()
    limits = PodLimits.read()
    environment = settings(folder) | {"MODELSERVICE_MODEL_SIZE_LIMIT": str(MODEL_SIZE_LIMIT)}
    if identities:
        file = folder / "tokens.toml"
        file.write_text(
            "\n".join(entry(user, namespaces={"*": "admin"}) for user in (SERVED, ATTACKER))
        )
        given = {"MODELSERVICE_AUTH": "tokens", "MODELSERVICE_TOKENS_FILE": str(file)}
        environment |= given
    attacker, client = (
        [("authorization", f"Bearer {token_of(user)}")] if identities else []
        for user in (ATTACKER, SERVED)
    )
    with started(["server"], folder / "server.log", environment, limits) as process:
        target = Target(process, folder / "server.log", limits, attacker)
        with grpc.insecure_channel(target.address) as channel:
            _deploy_served(channel, folder, client)
        with ExitStack() as client_process:
            if measured:
                token = token_of(SERVED) if identities else ""
                client_process.enter_context(measuring(target, token))
            yield target


@contextmanager
def started(
    module: Sequence[str], log: Path, environment: dict[str, str], limits: PodLimits
) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the length of a block; its log is a file, which never makes it wait."""
    given = {"MODELSERVICE_LISTEN": "127.0.0.1:0", "MODELSERVICE_LOG_FORMAT": "json"}
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stderr=written,
            cwd=ROOT,
            env=clean_environment() | given | environment,
            preexec_fn=lambda: _limit(limits),
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPS_WITHIN_SECONDS)
        process.kill()
        process.wait()


def _limit(limits: PodLimits) -> None:
    # Beyond it nothing is allocated any more, and the process ends as one does whose pod is full.
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))


def _permit_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, max(hard, _OPEN_FILES)))
        return
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _deploy_served(channel: grpc.Channel, folder: Path, metadata: Metadata) -> None:
    for status in health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), timeout=STARTS_WITHIN_SECONDS
    ):
        if status.status == health_pb2.HealthCheckResponse.SERVING:
            break
    uri = model(folder, SERVED).predictor.storage_uri
    predictor = pb.ModelPredictor(format=pb.ModelFormat(name="test"), storage_uri=uri)
    stub = ModelServiceStub(channel)
    deploy = DeployRequest(name=SERVED, spec=pb.InferenceServiceSpec(model=predictor))
    stub.Deploy(deploy, metadata=metadata)
    watch = WatchStatusRequest(name=SERVED, until=WatchStatusRequest.UNTIL_READY)
    *_, last = stub.WatchStatus(watch, timeout=STARTS_WITHIN_SECONDS, metadata=metadata)
    assert last.service.status.state == pb.InferenceServiceStatus.STATE_READY


@contextmanager
def measuring(
    target: Target, token: str, every_seconds: float = GET_EVERY_SECONDS
) -> Iterator[None]:
    """A well-behaved client, whose calls are measured for the length of the block."""
    timeout = str(target.limits.probe_timeout_seconds)
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.attacks.well_behaved",
            target.address,
            SERVED,
            timeout,
            token,
            str(every_seconds),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as client:
        assert client.stdin
        assert client.stdout

        def read(lines: Iterator[str]) -> None:
            for line in lines:
                what, due, ms, code = line.split()
                target.measured.append(Measured(what, float(due), float(ms), code))

        reading = threading.Thread(target=read, args=(client.stdout,), daemon=True)
        reading.start()
        try:
            _wait_until_measured(target)
            yield
        finally:
            client.stdin.close()
            client.wait(STOPS_WITHIN_SECONDS)
            reading.join()


def _wait_until_measured(target: Target) -> None:
    ends = time.monotonic() + STARTS_WITHIN_SECONDS
    while not any(each.what == "probe" for each in target.measured):
        if time.monotonic() > ends:
            raise RuntimeError("the well-behaved client does not measure")
        time.sleep(0.05)
