"""Readers of WatchStatus that go on at another replica with their token, and what they must see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from .asking import State

if TYPE_CHECKING:
    from modelservice.v1.model_service_pb2_grpc import ModelServiceAsyncStub

Type = pb.WatchStatusResponse.Type
# A connection takes a thousand streams; a test opens no more than that at one replica.
CONNECTIONS = 4
PAUSE_SECONDS = 0.05


class Kept(NamedTuple):
    """A message, with its arrival by time.monotonic(), and the number of streams before it."""

    message: pb.WatchStatusResponse
    at: float
    stream: int


class ResumingReader:
    """Keeps each message of a watch of one service.

    A stream that ends is followed by one with the last token at the next replica.
    """

    def __init__(
        self, replicas: Sequence[ModelServiceAsyncStub], namespace: str, name: str
    ) -> None:
        self.name = name
        self.kept: list[Kept] = []
        self.ends: list[grpc.StatusCode] = []
        self._replicas = replicas
        self._request = pb.WatchStatusRequest(namespace=namespace, name=name)

    @property
    def last(self) -> InferenceService | None:
        """The service as it was sent last."""
        services = (k.message.service for k in reversed(self.kept) if _is_state(k.message))
        return next(services, None)

    async def read(self) -> None:
        """Read until cancelled."""
        while True:
            stub = self._replicas[len(self.ends) % len(self._replicas)]
            try:
                async for message in stub.WatchStatus(self._request):
                    self.kept.append(Kept(message, time.monotonic(), len(self.ends)))
                    self._request.resume_token = message.resume_token
            except grpc.aio.AioRpcError as error:
                self.ends.append(error.code())
            # A replica that is gone, or is not there yet, refuses at once.
            await asyncio.sleep(PAUSE_SECONDS)

    def has_sent(self, final: InferenceService) -> bool:
        """Report whether the state that was sent last is this one."""
        return self.last is not None and _alike(self.last) == _alike(final)

    @property
    def last_state_at(self) -> float:
        """The arrival of the first message with the state that was sent last."""
        states = [kept for kept in self.kept if _is_state(kept.message)]
        last = _alike(states[-1].message.service)
        return next(kept.at for kept in states if _alike(kept.message.service) == last)

    def assert_is_a_history(self) -> None:
        """Assert that it never went back in time, that no resumed stream began with the state that
        was sent last or from the beginning, and that the streams ended only with their replicas."""
        assert set(self.ends) <= {grpc.StatusCode.UNAVAILABLE}, self.ends
        before: Kept | None = None
        for kept in self.kept:
            assert kept.message.type != Type.TYPE_RESET, f"{self.name} began anew"
            if not _is_state(kept.message):
                continue
            if before:
                service, earlier = kept.message.service, before.message.service
                told = f"{earlier}\nand then\n{service}"
                assert service.uid == earlier.uid, told
                assert _progress(service) >= _progress(earlier), f"back in time:\n{told}"
                resumed = kept.stream > before.stream
                assert not resumed or _alike(service) != _alike(earlier), f"repeated:\n{told}"
            before = kept


@asynccontextmanager
async def resuming_readers(
    addresses: Sequence[str], namespace: str, names: Sequence[str]
) -> AsyncIterator[list[ResumingReader]]:
    """One reader for each name, all at the first replica at first, for the length of a block."""
    async with AsyncExitStack() as stack:
        stubs: list[list[ModelServiceAsyncStub]] = []
        for number in range(CONNECTIONS):
            # Else channels to one address share a connection.
            options = [("grpc.channel_id", number), ("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.aio.insecure_channel(a, options=options) for a in addresses]
            for channel in channels:
                await stack.enter_async_context(channel)
            stubs.append([ModelServiceStub(channel) for channel in channels])
        readers = [
            ResumingReader(stubs[number % CONNECTIONS], namespace, name)
            for number, name in enumerate(names)
        ]
        tasks = [asyncio.create_task(reader.read()) for reader in readers]
        try:
            yield readers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _is_state(message: pb.WatchStatusResponse) -> bool:
    return message.type in (Type.TYPE_SNAPSHOT, Type.TYPE_CHANGED)


def _progress(service: InferenceService) -> tuple[int, bool]:
    """Rollouts here go well, so that one that was READY stays so until the next."""
    return service.generation, service.status.state == State.STATE_READY


def _alike(service: InferenceService) -> bytes:
    """Return what every replica derives alike of a service without a failure."""
    alike = InferenceService()
    alike.CopyFrom(service)
    alike.status.ClearField("latest_ready_generation")
    return alike.SerializeToString(deterministic=True)
