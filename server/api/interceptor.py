"""Around every call: each error becomes a status, and each call one line in the log."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from enum import Enum, auto
from functools import cache, partial
from typing import Any, NamedTuple

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from server.api.errors import code_of, cut, message_of, trailing_metadata
from server.api.limits import check_limits
from server.api.targets import names_in, targets_of
from server.control.call import Call
from server.domain.caller import Caller
from server.domain.errors import (
    ErrorReason,
    FieldInvalid,
    FieldViolation,
    ServiceError,
    TooManyRequests,
    TooManyStreams,
)


@cache
def _bound() -> structlog.typing.FilteringBoundLogger:
    """The logger as it was configured; the lazy one would be bound anew for each line."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__).bind()
    return logger


_KINDS = ("unary_unary", "unary_stream", "stream_stream")
_LOGGED_BYTES = 128
# A caller counts its deadline from before its request travelled here.
_CLOCKS_DIFFER_SECONDS = 0.05
_REFLECTION = "/grpc.reflection."
_HEALTH = "/grpc.health."
# Probes ask every few seconds.
_QUIET = (_HEALTH, _REFLECTION)
_REFLECTION_SECONDS = 1.0
_REFUSED_SECONDS = 1.0

Context = Any
Behaviour = Callable[[Any, Any], Any]


class CallLimits(NamedTuple):
    """How many calls may be open at once: those with one answer, and streams."""

    calls: int
    streams: int


class _Kind(Enum):
    """What counts together."""

    CALL = auto()
    STREAM = auto()
    HEALTH = auto()
    REFLECTION = auto()
    # One too many, of any kind, until its caller has the refusal.
    REFUSED = auto()


def _kind_of(method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> _Kind:
    if method.startswith(_HEALTH):
        return _Kind.HEALTH
    if method.startswith(_REFLECTION):
        return _Kind.REFLECTION
    return _Kind.STREAM if handler.response_streaming else _Kind.CALL


class _RefusedCalls:
    """Counts the calls that were one too many, and logs how many there were, once a second at most:
    whoever floods the server with calls would flood its log by a line for each."""

    def __init__(self) -> None:
        self._counts: Counter[ErrorReason] = Counter()

    def add(self, reason: ErrorReason) -> None:
        """Count one more."""
        if not self._counts:
            asyncio.get_running_loop().call_later(_REFUSED_SECONDS, self._log)
        self._counts[reason] += 1

    def _log(self) -> None:
        for reason, calls in self._counts.items():
            _bound().warning("calls refused", reason=reason.value, calls=calls)
        self._counts.clear()


class Calls(grpc.aio.ServerInterceptor):
    """The outermost interceptor.

    It wraps a method's handler once, not once a call, as general interceptor libraries do: the
    wrapping is half of their cost, and they leave the reading of the request outside. Methods of
    this API get a Call in place of gRPC's context, those of standard services the context.
    """

    def __init__(self, caller: Caller, default_namespace: str, limits: CallLimits) -> None:
        self._caller = caller
        self._default_namespace = default_namespace
        self._limits = limits
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._open: Counter[_Kind] = Counter()
        self._refused = _RefusedCalls()
        self._ended = asyncio.Event()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, guarded; None for a method that does not exist."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._guarded(method, handler)
        return self._handlers[method]

    async def drained(self) -> None:
        """Wait until no call is open.

        A reflection stream stays open for as long as its caller likes. It is waited for a little
        longer than the others, since callers read the details of their last status by it.
        """
        await self._until(lambda: self._open.total() == self._open[_Kind.REFLECTION])
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFLECTION_SECONDS):
                await self._until(lambda: not self._open.total())

    async def _until(self, over: Callable[[], bool]) -> None:
        while not over():
            self._ended.clear()
            await self._ended.wait()

    def _guarded(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        kind = next(kind for kind in _KINDS if getattr(handler, kind))
        behaviour: Behaviour = getattr(handler, kind)
        counted_as = _kind_of(method, handler)

        # No function of its own: its frame would keep the request, see `_call`.
        call = partial(self._call, method, counted_as, behaviour)
        read = _reading(handler.request_deserializer, streamed=handler.request_streaming)
        write = _writing(handler.response_serializer)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        guarded: grpc.RpcMethodHandler[Any, Any] = make(call, read, write)
        return guarded

    async def _call(
        self, method: str, kind: _Kind, behaviour: Behaviour, request: Any, context: Context
    ) -> Any:
        call = Call(self._caller, _deadline(context), secrets.token_hex(4))
        line = _Line(method, request, self._default_namespace, call.trace)
        if refusal := self._refusal(kind):
            line.quiet = True
            self._refused.add(refusal.reason)
        counted_as = _Kind.REFUSED if refusal else kind
        self._open[counted_as] += 1
        try:
            argument = call if kind in (_Kind.CALL, _Kind.STREAM) else context
            outcome = await _outcome(refusal, behaviour, request, argument, context, line)
            # gRPC keeps an abort with its call, and the abort's traceback this frame: a request of
            # 1 MiB, which takes 30 MiB as a message, would stay until a garbage collection.
            del request
            if isinstance(outcome, _Abort):
                await context.abort(*outcome)
            return outcome
        finally:
            self._open[counted_as] -= 1
            self._ended.set()

    def _refusal(self, kind: _Kind) -> ServiceError | None:
        """The error for a call that would be one too many; probes never are."""
        if kind is _Kind.CALL and self._open[kind] >= self._limits.calls:
            return TooManyRequests(
                f"this server answers {self._limits.calls} calls at once, and that many are open;"
                " try again soon"
            )
        if kind in (_Kind.STREAM, _Kind.REFLECTION) and self._open[kind] >= self._limits.streams:
            return TooManyStreams(
                f"this server has room for {self._limits.streams} streams, and that many are open;"
                " try again soon"
            )
        return None


def _reading(
    deserializer: Callable[[bytes], Any] | None, *, streamed: bool
) -> Callable[[bytes], Any]:
    """Read a request so that bytes which are none are refused by us, not by gRPC.

    A single request is read outside of the call, where gRPC answers the text of what is raised:
    the refusal stands in for the request until the call begins.
    """

    def read(raw: bytes) -> Any:
        try:
            return deserializer(raw) if deserializer else raw
        except DecodeError:
            refusal = FieldInvalid([FieldViolation("request", "must be this method's message")])
            if streamed:
                raise refusal from None
            return refusal

    return read


def _writing(serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Send what is serialised already as it is."""

    def write(response: Any) -> bytes:
        return response if isinstance(response, bytes) or not serializer else serializer(response)

    return write


class _Abort(NamedTuple):
    """How a call is refused: what `context.abort` takes."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


async def _outcome(
    refusal: ServiceError | None,
    behaviour: Behaviour,
    request: Any,
    argument: Call | Context,
    context: Context,
    line: _Line,
) -> Any:
    """The answer, logged, or the _Abort that stands for an error."""
    try:
        if refusal:
            raise refusal
        answer = await _answered(behaviour, request, argument, context)
        line.write(grpc.StatusCode.OK)
        return answer
    except grpc.aio.AbortError as aborted:
        line.write(context.code())
        del request  # as in `_call`
        raise aborted.with_traceback(None) from None
    except grpc.aio.InternalError:
        # gRPC's own: what was written found the client gone, before our task was cancelled.
        line.write(_code_of_leaving(context))
        raise
    except Exception as e:
        return _abort(e, line)
    except asyncio.CancelledError as e:
        # The client's going cancels this task; one from elsewhere would leave the client without
        # an answer for ever.
        task = asyncio.current_task()
        if task and task.cancelling():
            line.write(_code_of_leaving(context))
            raise
        return _abort(e, line)


async def _answered(
    behaviour: Behaviour, request: Any, argument: Call | Context, context: Context
) -> Any:
    if isinstance(request, ServiceError):
        raise request
    if isinstance(request, Message):
        check_limits(request)
    answering = behaviour(request, argument)
    if not inspect.isasyncgen(answering):
        return await answering
    async with aclosing(answering) as responses:
        async for response in responses:
            await context.write(response)
    return None


def _abort(error: BaseException, line: _Line) -> _Abort:
    told = error if isinstance(error, ServiceError) else _bug(error, line)
    line.fields["reason"] = told.reason.value
    line.write(code_of(told))
    return _Abort(code_of(told), message_of(told), trailing_metadata(told))


def _bug(error: BaseException, line: _Line) -> ServiceError:
    """What a caller is told of a bug: an id under which the log has it."""
    line.fields.update(error_id=line.trace, exc_info=error)
    return ServiceError(f"a bug of the server; its log has it under {line.trace}", id=line.trace)


def _deadline(context: Context) -> float | None:
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left


def _code_of_leaving(context: Context) -> grpc.StatusCode:
    left = context.time_remaining()
    expired = left is not None and left < _CLOCKS_DIFFER_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


class _Line:
    """A call's line in the log. Of the request it shows who is meant, and nothing of the spec.
    `quiet`: at debug level."""

    def __init__(self, method: str, request: Any, default_namespace: str, trace: str) -> None:
        self._began = time.perf_counter()
        self.trace = trace
        self.quiet = method.startswith(_QUIET)
        self.fields: dict[str, Any] = {"method": method[1:]}
        for field, target in targets_of(request, default_namespace).items():
            self.fields[field] = cut(target, _LOGGED_BYTES)
        has = names_in(getattr(request, "DESCRIPTOR", None))
        if "request_id" in has and request.request_id:
            self.fields["request_id"] = cut(request.request_id, _LOGGED_BYTES)

    def write(self, code: grpc.StatusCode) -> None:
        """Log the call's end."""
        ms = round((time.perf_counter() - self._began) * 1000, 2)
        self._level(code)("call", **self.fields, code=code.name, ms=ms)

    def _level(self, code: grpc.StatusCode) -> Callable[..., Any]:
        if code is grpc.StatusCode.INTERNAL:
            return _bound().error
        return _bound().debug if self.quiet else _bound().info
