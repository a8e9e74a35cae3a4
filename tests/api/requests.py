"""Requests that tests make, and bounded reading of watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from modelservice.v1.inference_service_pb2 import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    InferenceServiceStatus,
)
from modelservice.v1.model_service_pb2 import (
    DeployRequest,
    GetRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)

from server.domain.rollout.status import Failure, FailureReason, State
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.service.inference_service import ServiceKey
from tests.memory_cluster.cluster import MemoryCluster
from tests.patience import PATIENCE_SECONDS

NAMESPACE = "model-serving"

READY = InferenceServiceStatus.STATE_READY


def key(name: str) -> ServiceKey:
    return ServiceKey(NAMESPACE, name)


def hold_deploys(
    memory: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Any], asyncio.Event]:
    """Let no Deploy end before the event is set. The list has those that began."""
    released, apply = asyncio.Event(), memory.apply
    began: list[Any] = []

    async def held(deploy: Any) -> Any:
        began.append(deploy)
        await released.wait()
        return await apply(deploy)

    monkeypatch.setattr(memory, "apply", held)
    return began, released


def container(image: str = "example.org/model:1", **others: Any) -> InferenceServiceSpec:
    return InferenceServiceSpec(container=ContainerPredictor(image=image), **others)


def deploy(name: str, image: str = "example.org/model:1", **others: Any) -> DeployRequest:
    return DeployRequest(name=name, spec=container(image), **others)


def failed(
    rollout_id: str, state: State = State.FAILED, retrying: bool = False, **others: Any
) -> Status:
    """A status with a failure of a rollout."""
    failure = Failure(
        FailureReason.IMAGE_PULL,
        "the image example.org/model:1 is not there",
        "push it",
        retrying=retrying,
        rollout_id=rollout_id,
        pod="pod-1",
        container="kserve-container",
        **others,
    )
    return Status(state, "the image is not there", failure=failure)


def get(stub: Any, name: str) -> InferenceService:
    service: InferenceService = stub.Get(GetRequest(name=name)).service
    return service


def eventually(what: str, true: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < ends, f"still not so: {what}"
        time.sleep(0.01)


class Stream:
    """A watch that a test reads message by message; its deadline bounds every read."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def next(self) -> WatchStatusResponse:
        return next(self.call)

    def take(self, count: int) -> list[WatchStatusResponse]:
        return [self.next() for _ in range(count)]

    def until(self, true: Callable[[WatchStatusResponse], bool]) -> WatchStatusResponse:
        return next(message for message in self.call if true(message))

    def rest(self) -> tuple[list[WatchStatusResponse], grpc.RpcError | None]:
        """What still comes, and the error that ends it; None for a good end."""
        messages: list[WatchStatusResponse] = []
        try:
            messages.extend(self.call)
        except grpc.RpcError as error:
            return messages, error
        return messages, None


@contextmanager
def watching(stub: Any, **fields: Any) -> Iterator[Stream]:
    """An open watch."""
    call = stub.WatchStatus(WatchStatusRequest(**fields), timeout=PATIENCE_SECONDS)
    try:
        yield Stream(call)
    finally:
        call.cancel()


def kinds(messages: list[WatchStatusResponse]) -> list[str]:
    return [
        WatchStatusResponse.Type.Name(message.type).removeprefix("TYPE_") for message in messages
    ]
