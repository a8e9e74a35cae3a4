"""Requests that the tests make, and waiting for what they come to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.rollout_service_pb2 import StartRequest, StopRequest
from modelservice.v1.rollout_service_pb2_grpc import RolloutServiceStub

from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of

Answer = TypeVar("Answer", bound=Message)

MODEL = "gs://kfserving-examples/models/sklearn/1.0/model"
SKLEARN_IMAGE = "kserve/sklearnserver:latest"
TIMEOUT = PATIENCE_SECONDS

State = services_pb.InferenceServiceStatus.State
Reason = services_pb.Failure.Reason
Action = pb.DeployResponse.Action
Spec = services_pb.InferenceServiceSpec


def container(image: str = SKLEARN_IMAGE, **fields: Any) -> Spec:
    """A predictor of the caller's own image; images of lab/ play a part."""
    env = {"STORAGE_URI": MODEL} | fields.pop("env", {})
    return Spec(container=services_pb.ContainerPredictor(image=image), env=env, **fields)


def model(name: str = "sklearn", uri: str = MODEL, runtime: str = "", **fields: Any) -> Spec:
    """A model of this format."""
    predictor = services_pb.ModelPredictor(
        format=services_pb.ModelFormat(name=name), storage_uri=uri, runtime=runtime
    )
    return Spec(model=predictor, **fields)


def scaling(minimum: int, maximum: int = 0) -> services_pb.Scaling:
    return services_pb.Scaling(min_replicas=minimum, max_replicas=maximum or minimum)


def deploy(
    stub: ModelServiceStub, namespace: str, name: str, spec: Spec | None = None, **fields: Any
) -> pb.DeployResponse:
    """Deploy; grpc.RpcError when it is refused."""
    request = pb.DeployRequest(namespace=namespace, name=name, spec=spec, **fields)
    return _write(stub.Deploy, request)


def get(stub: ModelServiceStub, namespace: str, name: str) -> services_pb.InferenceService:
    return stub.Get(pb.GetRequest(namespace=namespace, name=name), timeout=TIMEOUT).service


def delete(stub: ModelServiceStub, namespace: str, name: str, **fields: Any) -> pb.DeleteResponse:
    request = pb.DeleteRequest(namespace=namespace, name=name, **fields)
    return _write(stub.Delete, request)


def stop(
    rollouts: RolloutServiceStub, namespace: str, name: str, **fields: Any
) -> pb.DeployResponse:
    return _write(rollouts.Stop, StopRequest(namespace=namespace, name=name, **fields))


def start(
    rollouts: RolloutServiceStub, namespace: str, name: str, **fields: Any
) -> pb.DeployResponse:
    return _write(rollouts.Start, StartRequest(namespace=namespace, name=name, **fields))


def _write(call: Callable[..., Answer], request: Message) -> Answer:
    """The answer to a write, asked for again as clients do while the server cannot reach the
    cluster: an API server on a busy machine may not answer its probes for some seconds."""
    ends = time.monotonic() + TIMEOUT
    while True:
        try:
            return call(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            if refusal_of(error).reason != "CLUSTER_UNAVAILABLE" or time.monotonic() > ends:
                raise
            time.sleep(0.2)


def outcome(call: Callable[[Any], Answer], request: Message) -> Answer | str:
    """The answer, or the reason of the refusal."""
    try:
        return call(request)
    except grpc.RpcError as error:
        return refusal_of(error).reason


def wait_ready(
    stub: ModelServiceStub, namespace: str, name: str, rollout_id: str
) -> services_pb.InferenceService:
    """The service once this rollout is READY; grpc.RpcError when it ends otherwise."""
    return _wait(stub, namespace, name, until=pb.WatchStatusRequest.UNTIL_READY, id=rollout_id)


def has_failure(told: services_pb.InferenceService) -> bool:
    """Report whether a status names a failure, whatever the state."""
    return told.status.HasField("failure")


def wait_gone(stub: ModelServiceStub, namespace: str, name: str) -> None:
    """Return once there is no such service."""
    _wait(stub, namespace, name, until=pb.WatchStatusRequest.UNTIL_GONE, id="")


def _wait(
    stub: ModelServiceStub,
    namespace: str,
    name: str,
    *,
    until: pb.WatchStatusRequest.Until.ValueType,
    id: str,  # noqa: A002
) -> services_pb.InferenceService:
    request = pb.WatchStatusRequest(namespace=namespace, name=name, until=until, rollout_id=id)
    told = services_pb.InferenceService()
    for message in stub.WatchStatus(request, timeout=TIMEOUT):
        if message.HasField("service"):
            told = message.service
    return told
