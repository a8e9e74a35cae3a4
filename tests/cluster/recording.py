"""All that a WatchStatus tells, kept in the order in which it came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService, InferenceServiceStatus
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.patience import PATIENCE_SECONDS
from tests.refusals import Refusal, refusal_of

Until = pb.WatchStatusRequest.Until


class Recording:
    """One WatchStatus, read by a thread of its own until it ends or `close` is called.

    `messages` grows while it runs, `arrivals` with it; these, and `ended_at`, the moment of its
    end, are by time.monotonic().
    """

    def __init__(self, stub: ModelServiceStub, namespace: str, name: str, **fields: Any) -> None:
        request = pb.WatchStatusRequest(namespace=namespace, name=name, **fields)
        self.messages: list[pb.WatchStatusResponse] = []
        self.arrivals: list[float] = []
        self.ended_at = 0.0
        self._error: grpc.RpcError | None = None
        self._call = stub.WatchStatus(request)
        self._thread = threading.Thread(target=self._read, daemon=True, name=f"watching {name}")
        self._thread.start()

    @property
    def services(self) -> list[InferenceService]:
        """Every service told, as it was."""
        return [service for _, service in self.timed()]

    def timed(self) -> list[tuple[float, InferenceService]]:
        """Every service told, with its arrival."""
        told = zip(list(self.messages), self.arrivals, strict=False)
        return [(at, m.service) for m, at in told if m.HasField("service")]

    def states(self, generation: int) -> list[InferenceServiceStatus.State.ValueType]:
        """What was told of one generation, each state once for as long as it stood."""
        states = [s.status.state for s in self.services if s.generation == generation]
        return [s for i, s in enumerate(states) if i == 0 or s != states[i - 1]]

    def wait(
        self,
        condition: Callable[[InferenceService], object],
        what: str,
        timeout: float = PATIENCE_SECONDS,
    ) -> InferenceService:
        """The first service told, now or later, for which `condition` holds."""
        deadline = time.monotonic() + timeout
        while True:
            # Read first: the last service and the end may come at any moment.
            ended = not self._thread.is_alive()
            if (found := next(filter(condition, self.services), None)) is not None:
                return found
            assert not ended, f"ended before {what}:\n{self.told()}"
            assert time.monotonic() < deadline, f"{what}: not within {timeout} s:\n{self.told()}"
            time.sleep(0.02)

    def wait_state(
        self,
        state: InferenceServiceStatus.State.ValueType,
        generation: int,
        timeout: float = PATIENCE_SECONDS,
    ) -> InferenceService:
        """The first service of this generation, now or later, that is in this state."""
        return self.wait(
            lambda s: s.generation == generation and s.status.state == state,
            f"generation {generation} is {InferenceServiceStatus.State.Name(state)}",
            timeout,
        )

    def end(self, timeout: float = 120.0) -> Refusal | None:
        """Wait for its end: None for OK, otherwise what was told."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"not ended within {timeout} s:\n{self.told()}"
        return refusal_of(self._error) if self._error else None

    def close(self) -> None:
        """Stop listening."""
        self._call.cancel()
        self._thread.join(10)

    def told(self) -> str:
        """For messages of failed tests: each service told, in short."""
        return "\n".join(
            f"{s.generation} {InferenceServiceStatus.State.Name(s.status.state)[6:]}:"
            f" {s.status.message}"
            for s in self.services
        )

    def _read(self) -> None:
        try:
            for message in self._call:
                self.arrivals.append(time.monotonic())
                self.messages.append(message)
        except grpc.RpcError as error:
            self._error = error
        self.ended_at = time.monotonic()
