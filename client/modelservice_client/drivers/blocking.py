"""Carry out the steps of a routine on a blocking channel."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message
from modelservice.v1.model_service_pb2 import WatchStatusResponse

from modelservice_client.core import rpcs
from modelservice_client.core.errors import ModelServiceError, NotReachable
from modelservice_client.core.steps import Close, Emit, Open, Pause, Receive, Routine, Send, Step
from modelservice_client.credentials import ChannelSpec, Metadata
from modelservice_client.drivers.first_contact import BlockingFirstContact
from modelservice_client.drivers.token_threads import TokenThreads
from modelservice_client.drivers.translation import (
    closed,
    error_from,
    headers_failed,
    headers_late,
    silent,
)

T = TypeVar("T")


class Driver:
    """A channel that carries out steps."""

    def __init__(self, spec: ChannelSpec) -> None:
        self._spec = spec
        self._channel = (
            grpc.secure_channel(spec.target, spec.credentials, options=spec.options)
            if spec.credentials
            else grpc.insecure_channel(spec.target, options=spec.options)
        )
        self._contact = BlockingFirstContact(spec)
        self._tokens = TokenThreads(spec.token)
        self._closed = False
        # Those of each `_wait` that goes on.
        self._woken: set[queue.SimpleQueue[None]] = set()

    def close(self) -> None:
        """End all calls and pauses."""
        self._closed = True
        for woken in list(self._woken):
            woken.put(None)
        self._contact.close()
        self._channel.close()

    def run(self, routine: Routine[T]) -> T:
        """Run a routine to its end, and show nothing."""
        with Run(self, routine) as run:
            for _ in run:
                pass
            return run.result

    def send(self, step: Send, run: Run[Any]) -> Message:
        """Make a call."""
        ends = time.monotonic() + step.timeout
        call = self._channel.unary_unary(
            step.rpc.path,
            request_serializer=step.rpc.request.SerializeToString,
            response_deserializer=step.rpc.response.FromString,
        )
        headers = self._headers(step.timeout, run)
        with self._translated(headers, ends):
            response: Message = call(
                step.request,
                timeout=max(ends - time.monotonic(), 0.0),
                metadata=headers,
            )
        self._contact.answered = True
        return response

    def open(self, step: Open, run: Run[Any]) -> Stream:
        """Open a watch; whether it works shows with its first message."""
        ends = math.inf if step.timeout is None else time.monotonic() + step.timeout
        call = self._channel.unary_stream(
            rpcs.WATCH_STATUS.path,
            request_serializer=rpcs.WATCH_STATUS.request.SerializeToString,
            response_deserializer=rpcs.WATCH_STATUS.response.FromString,
        )
        headers = self._headers(step.token_timeout, run)
        with self._translated(headers, ends):
            timeout = None if step.timeout is None else max(ends - time.monotonic(), 0.0)
            opened = call(step.request, timeout=timeout, metadata=headers)
            return Stream(opened, headers, ends)

    def receive(self, stream: Stream, step: Receive) -> WatchStatusResponse | None:
        """Wait for the next message of a watch; None is its end."""
        try:
            with self._translated(stream.headers, stream.ends):
                message = stream.receive(step.timeout)
        except NotReachable:
            if stream.was_silent:
                raise silent(step.timeout) from None
            raise
        self._contact.answered = True
        return message

    def pause(self, step: Pause, run: Run[Any]) -> None:
        """Wait, at most until the client or the run is closed."""
        self._wait(step.seconds, queue.SimpleQueue(), run)

    def _headers(self, seconds: float, run: Run[Any]) -> Metadata:
        if self._closed:
            raise closed()
        token = self._spec.token
        try:
            made = self._made_token(seconds, run) if token.blocks else token.metadata()
        except (OSError, ValueError) as error:
            raise headers_failed(error) from None
        return (*self._spec.metadata, *made)

    def _made_token(self, seconds: float, run: Run[Any]) -> Metadata:
        asked, woken = self._tokens.ask(), queue.SimpleQueue[None]()
        asked.add_done_callback(lambda _: woken.put(None))
        try:
            self._wait(seconds, woken, run)
            if not asked.done():
                raise headers_late(self._spec.token, seconds)
            return asked.result()
        finally:
            asked.cancel()

    def _wait(self, seconds: float, woken: queue.SimpleQueue[None], run: Run[Any]) -> None:
        """Wait until something is put into this, for `seconds` at most. Raises ClientClosed, also
        where only the run is closed."""
        run.woken = woken
        self._woken.add(woken)
        try:
            if not (self._closed or run.over):
                with suppress(queue.Empty):
                    woken.get(timeout=seconds)
        finally:
            self._woken.discard(woken)
        if self._closed or run.over:
            raise closed()

    @contextmanager
    def _translated(self, headers: Metadata, ends: float) -> Iterator[None]:
        """Translate the errors of an attempt that ends at this monotonic time."""
        try:
            yield
        except grpc.RpcError as error:
            if self._closed:
                raise closed() from None
            translated = error_from(error, headers)
            explained = self._contact.explain(translated, ends - time.monotonic())
            raise (closed() if self._closed else explained) from None
        except ValueError:
            # gRPC's word for a channel that another thread has closed meanwhile.
            if self._closed:
                raise closed() from None
            raise


class Stream:
    """An open watch, the `headers` that opened it, and the monotonic time at which it `ends`. A
    thread cancels it when a message is waited for too long: gRPC's blocking iterator has no
    timeout."""

    def __init__(self, call: Any, headers: Metadata, ends: float) -> None:
        self.headers = headers
        self.ends = ends
        self.was_silent = False
        self._call = call
        self._silent_at = math.inf
        # Not an Event: a garbage collection in the guard may close the stream while the guard holds
        # the Event's lock.
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._guard: threading.Thread | None = None

    def receive(self, timeout: float) -> WatchStatusResponse | None:
        """Wait for the next message; None is the end."""
        self._silent_at = time.monotonic() + timeout
        if self._guard is None:
            self._guard = threading.Thread(
                target=self._cancel_when_silent,
                args=(timeout / 8,),
                name="modelservice-watch",
                daemon=True,
            )
            self._guard.start()
        try:
            message: WatchStatusResponse | None = next(self._call, None)
            return message
        finally:
            self._silent_at = math.inf

    def close(self) -> None:
        """Cancel the stream. Harmless once it has ended."""
        self._ended.put(None)
        self._call.cancel()

    def _cancel_when_silent(self, interval: float) -> None:
        while time.monotonic() < self._silent_at:
            with suppress(queue.Empty):
                self._ended.get(timeout=interval)
                return
        self.was_silent = True
        self._call.cancel()


class Run(Generic[T]):
    """A routine that runs: an iterator of what it shows. `result` is there once it has ended.

    over: whether it has ended, or is closed.
    woken: what ends the present wait of the driver, or that of the last one.
    """

    result: T

    def __init__(self, driver: Driver, routine: Routine[T]) -> None:
        self._driver = driver
        self._routine = routine
        self._stream: Stream | None = None
        self.over = False
        self.woken = queue.SimpleQueue[None]()

    def __del__(self) -> None:
        # The thread of a watch that nobody reads any more would hold it open.
        self.close()

    def __enter__(self) -> Run[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Run[T]:
        return self

    def __next__(self) -> WatchStatusResponse:
        if self.over:
            raise StopIteration
        try:
            step = self._routine.send(None)
            while not isinstance(step, Emit):
                try:
                    answer = self._carry_out(step)
                except ModelServiceError as error:
                    self._stop_if_closed()
                    step = self._routine.throw(error)
                else:
                    self._stop_if_closed()
                    step = self._routine.send(answer)
            return step.message
        except StopIteration as ended:
            self.result = ended.value
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel the watch, if one is open, and end; also for a thread that waits for a message, or
        in a pause."""
        self.over = True
        self.woken.put(None)
        self._close_stream()
        # Another thread may be in the middle of it, and stops at the next step.
        with suppress(ValueError):
            self._routine.close()

    def _stop_if_closed(self) -> None:
        if self.over:
            raise StopIteration

    def _carry_out(self, step: Step) -> Any:
        match step:
            case Send():
                return self._driver.send(step, self)
            case Open():
                self._stream = self._driver.open(step, self)
            case Receive():
                # None once another thread has closed it.
                return self._driver.receive(stream, step) if (stream := self._stream) else None
            case Close():
                self._close_stream()
            case Pause():
                self._driver.pause(step, self)
        return None

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream:
            stream.close()
