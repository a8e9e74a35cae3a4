"""Carry out the steps of a routine on an asyncio channel."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message
from modelservice.v1.model_service_pb2 import WatchStatusResponse

from modelservice_client.core import rpcs
from modelservice_client.core.errors import ModelServiceError
from modelservice_client.core.steps import Close, Emit, Open, Pause, Receive, Routine, Send, Step
from modelservice_client.credentials import ChannelSpec, Metadata
from modelservice_client.drivers.first_contact import AsyncFirstContact
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
    """A channel that carries out steps. It belongs to the event loop of its first call."""

    def __init__(self, spec: ChannelSpec) -> None:
        self._spec = spec
        self._opened: grpc.aio.Channel | None = None
        self._contact = AsyncFirstContact(spec)
        self._tokens = TokenThreads(spec.token)
        self._closed = asyncio.Event()

    async def close(self) -> None:
        """End all calls and pauses."""
        self._closed.set()
        self._contact.close()
        if self._opened:
            await self._opened.close()

    async def run(self, routine: Routine[T]) -> T:
        """Run a routine to its end, and show nothing."""
        async with Run(self, routine) as run:
            async for _ in run:
                pass
            return run.result

    async def send(self, step: Send) -> Message:
        """Make a call."""
        ends = time.monotonic() + step.timeout
        headers = await self._headers(step.timeout)
        call: Any = self._channel().unary_unary(
            step.rpc.path,
            request_serializer=step.rpc.request.SerializeToString,
            response_deserializer=step.rpc.response.FromString,
        )
        async with self._translated(headers, ends):
            response: Message = await call(
                step.request,
                timeout=max(ends - time.monotonic(), 0.0),
                metadata=headers,
            )
        self._contact.answered = True
        return response

    async def open(self, step: Open) -> Stream:
        """Open a watch; whether it works shows with its first message."""
        ends = math.inf if step.timeout is None else time.monotonic() + step.timeout
        headers = await self._headers(step.token_timeout)
        call: Any = self._channel().unary_stream(
            rpcs.WATCH_STATUS.path,
            request_serializer=rpcs.WATCH_STATUS.request.SerializeToString,
            response_deserializer=rpcs.WATCH_STATUS.response.FromString,
        )
        async with self._translated(headers, ends):
            timeout = None if step.timeout is None else max(ends - time.monotonic(), 0.0)
            opened = call(step.request, timeout=timeout, metadata=headers)
            return Stream(opened, headers, ends)

    async def receive(self, stream: Stream, step: Receive) -> WatchStatusResponse | None:
        """Wait for the next message of a watch; None is its end."""
        try:
            async with (
                self._translated(stream.headers, stream.ends),
                asyncio.timeout(step.timeout),
            ):
                message = await stream.call.read()
        except TimeoutError:
            raise silent(step.timeout) from None
        self._contact.answered = True
        return None if message is grpc.aio.EOF else message

    async def pause(self, step: Pause) -> None:
        """Wait, at most until the client is closed."""
        try:
            async with asyncio.timeout(step.seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise closed()

    def _channel(self) -> grpc.aio.Channel:
        if self._opened is None:
            spec = self._spec
            self._opened = (
                grpc.aio.secure_channel(spec.target, spec.credentials, options=spec.options)
                if spec.credentials
                else grpc.aio.insecure_channel(spec.target, options=spec.options)
            )
        return self._opened

    async def _headers(self, seconds: float) -> Metadata:
        if self._closed.is_set():
            raise closed()
        token = self._spec.token
        try:
            made = await self._made_token(seconds) if token.blocks else token.metadata()
        except (OSError, ValueError) as error:
            raise headers_failed(error) from None
        return (*self._spec.metadata, *made)

    async def _made_token(self, seconds: float) -> Metadata:
        asked = asyncio.wrap_future(self._tokens.ask())
        closing = asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait(
                (asked, closing), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if self._closed.is_set():
                raise closed()
            if not asked.done():
                raise headers_late(self._spec.token, seconds)
            return asked.result()
        finally:
            asked.cancel()
            closing.cancel()

    @asynccontextmanager
    async def _translated(self, headers: Metadata, ends: float) -> AsyncIterator[None]:
        """Translate the errors of an attempt that ends at this monotonic time."""
        try:
            yield
        except grpc.RpcError as error:
            if self._closed.is_set():
                raise closed() from None
            translated = error_from(error, headers)
            explained = await self._contact.explain(translated, ends - time.monotonic())
            raise (closed() if self._closed.is_set() else explained) from None
        except (grpc.aio.UsageError, asyncio.CancelledError):
            # How gRPC ends calls of a channel that is closed meanwhile.
            task = asyncio.current_task()
            if self._closed.is_set() and not (task and task.cancelling()):
                raise closed() from None
            raise


class Stream(NamedTuple):
    """An open watch, the headers that opened it, and the monotonic time at which it ends."""

    call: Any
    headers: Metadata
    ends: float


class Run(Generic[T]):
    """A routine that runs: an iterator of what it shows. `result` is there once it has ended."""

    result: T

    def __init__(self, driver: Driver, routine: Routine[T]) -> None:
        self._driver = driver
        self._routine = routine
        self._stream: Stream | None = None
        self._over = False
        # The limit of the present `__anext__`, which `close` lets expire. It has no other end.
        self._reading: asyncio.Timeout | None = None

    async def __aenter__(self) -> Run[T]:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def __aiter__(self) -> Run[T]:
        return self

    async def __anext__(self) -> WatchStatusResponse:
        if self._over:
            raise StopAsyncIteration
        self._reading = reading = asyncio.timeout(None)
        try:
            async with reading:
                return await self._next()
        except TimeoutError:
            if reading.expired():
                raise StopAsyncIteration from None
            raise
        finally:
            self._reading = None

    async def _next(self) -> WatchStatusResponse:
        try:
            step = self._routine.send(None)
            while not isinstance(step, Emit):
                try:
                    answer = await self._carry_out(step)
                except ModelServiceError as error:
                    self._stop_if_closed()
                    step = self._routine.throw(error)
                except asyncio.CancelledError:
                    # How gRPC ends the reading of a stream that another task has closed.
                    task = asyncio.current_task()
                    if not (task and task.cancelling()):
                        self._stop_if_closed()
                    raise
                else:
                    self._stop_if_closed()
                    step = self._routine.send(answer)
            return step.message
        except StopIteration as ended:
            self.result = ended.value
            self._end()
            raise StopAsyncIteration from None
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Cancel the watch, if one is open, and end; also for a task that waits for a message, or
        in a pause."""
        reading, self._reading = self._reading, None
        if reading:
            reading.reschedule(0.0)
        self._end()

    def _end(self) -> None:
        self._over = True
        self._close_stream()
        # It may be in the middle of `on_retry`, and stops at the next step.
        with suppress(ValueError):
            self._routine.close()

    def _stop_if_closed(self) -> None:
        if self._over:
            raise StopIteration

    async def _carry_out(self, step: Step) -> Any:
        match step:
            case Send():
                return await self._driver.send(step)
            case Open():
                self._stream = await self._driver.open(step)
            case Receive():
                stream = self._stream
                return await self._driver.receive(stream, step) if stream else None
            case Close():
                self._close_stream()
            case Pause():
                await self._driver.pause(step)
        return None

    def _close_stream(self) -> None:
        if self._stream:
            self._stream.call.cancel()
            self._stream = None
