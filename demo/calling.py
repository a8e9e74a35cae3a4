"""The calls that the demo makes, as any client of the stubs would."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import inference_service_pb2 as service
from modelservice.v1 import model_service_pb2 as messages
from modelservice.v1 import model_service_pb2_grpc

NAME = "iris"

_ANSWER_SECONDS = 30.0
_ROLLOUT_SECONDS = 120.0


class RolloutFailed(NamedTuple):
    """How a watch that waited for a rollout ended."""

    code: str
    reason: str
    failure: service.Failure


class Client:
    """One connection to a server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._health = health_pb2_grpc.HealthStub(channel)
        self._stub = model_service_pb2_grpc.ModelServiceStub(channel)

    def wait_until_serving(self) -> None:
        """Follow its health until it takes calls."""
        asked = health_pb2.HealthCheckRequest()
        for answer in self._health.Watch(asked, timeout=_ANSWER_SECONDS, wait_for_ready=True):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return

    def deploy(self, model: Path) -> messages.DeployResponse:
        """Deploy a scikit-learn model under the demo's name."""
        return self._stub.Deploy(
            messages.DeployRequest(
                name=NAME,
                spec=service.InferenceServiceSpec(
                    model=service.ModelPredictor(
                        format=service.ModelFormat(name="sklearn"), storage_uri=str(model)
                    )
                ),
            ),
            timeout=_ANSWER_SECONDS,
        )

    def follow(self, rollout_id: str) -> Iterator[service.InferenceService]:
        """Each status of a rollout until it is ready. Raises grpc.RpcError if it fails."""
        watch = messages.WatchStatusRequest(
            name=NAME,
            until=messages.WatchStatusRequest.UNTIL_READY,
            rollout_id=rollout_id,
        )
        for message in self._stub.WatchStatus(watch, timeout=_ROLLOUT_SECONDS):
            if message.HasField("service"):
                yield message.service

    def delete(self) -> None:
        """Delete the service, and wait until it is gone."""
        self._stub.Delete(messages.DeleteRequest(name=NAME), timeout=_ANSWER_SECONDS)
        until_gone = messages.WatchStatusRequest(
            name=NAME, until=messages.WatchStatusRequest.UNTIL_GONE
        )
        for _ in self._stub.WatchStatus(until_gone, timeout=_ROLLOUT_SECONDS):
            pass


def failure_of(error: grpc.RpcError) -> RolloutFailed:
    """Read from an error's details why a rollout failed."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info, failure = error_details_pb2.ErrorInfo(), service.Failure()
    for detail in status_pb2.Status.FromString(details).details:
        detail.Unpack(info)
        detail.Unpack(failure)
    return RolloutFailed(error.code().name, info.reason, failure)


def predict(url: str, measures: Sequence[float]) -> str:
    """Ask the model which iris has these measures, by the Open Inference Protocol."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": list(measures)}
    request = urllib.request.Request(
        f"{url}/v2/models/{NAME}/infer",
        data=json.dumps({"inputs": [tensor]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    # No proxy: it is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
        return str(json.load(answer)["outputs"][0]["data"][0])
