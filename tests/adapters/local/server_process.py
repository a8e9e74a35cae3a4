"""`python -m server` on a state directory, as a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1 import model_service_pb2 as calls
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab.port_blocks import own_block
from tests.adapters.local.serving import model, runtimes_file
from tests.alone import Alone, alone
from tests.patience import PATIENCE_SECONDS


class Server:
    """`python -m server` on a state directory."""

    def __init__(self, running: Alone, channel: grpc.Channel) -> None:
        self.process = running.process
        self.running = running
        self.channel = channel
        self.stub = ModelServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def deploy(
        self, folder: Path, tag: str, name: str = "iris", request_id: str = "", **orders: Any
    ) -> Any:
        predictor = model(folder, tag, **orders).predictor
        spec = pb.InferenceServiceSpec(
            model=pb.ModelPredictor(
                format=pb.ModelFormat(name="test"), storage_uri=predictor.storage_uri
            )
        )
        asked = calls.DeployRequest(name=name, spec=spec, request_id=request_id)
        return self.stub.Deploy(asked, timeout=PATIENCE_SECONDS)

    def wait(self, name: str = "iris", rollout_id: str = "") -> Any:
        """The service once it is READY."""
        asked = calls.WatchStatusRequest(
            name=name, rollout_id=rollout_id, until=calls.WatchStatusRequest.UNTIL_READY
        )
        *_, last = self.stub.WatchStatus(asked, timeout=PATIENCE_SECONDS)
        return last.service

    def wait_until_gone(self, name: str = "iris") -> None:
        asked = calls.WatchStatusRequest(name=name, until=calls.WatchStatusRequest.UNTIL_GONE)
        list(self.stub.WatchStatus(asked, timeout=PATIENCE_SECONDS))

    def serving(self) -> None:
        """Wait until it has told what is stored."""
        for status in self._health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS):
            if status.status == health_pb2.HealthCheckResponse.SERVING:
                return


@contextmanager
def server(folder: Path, program: str = "server", **environment: str) -> Iterator[Server]:
    """`program`: another module to run in place of `server`."""
    with (
        alone(program, **(settings(folder) | environment)) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        server = Server(running, channel)
        server.serving()
        yield server


def settings(folder: Path) -> dict[str, str]:
    return {
        "MODELSERVICE_STATE_DIR": str(folder / "state"),
        "MODELSERVICE_SERVING_RUNTIMES": str(runtimes_file(folder)),
        "MODELSERVICE_SERVING_PORTS": own_block().setting,
        "MODELSERVICE_STOP_DELAY": "0",
    }


def kill(running: Server) -> None:
    running.process.send_signal(signal.SIGKILL)
    running.process.wait(PATIENCE_SECONDS)
