"""The interceptor of every call: makes the Call, counts it, logs it, turns errors into statuses."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message

from server.api.authentication import bearer_token
from server.api.call_log import CallLog, logger
from server.api.errors import code_of, cut, message_of, trailing_metadata
from server.api.limits import check_limits
from server.control.call import Call
from server.deadline import Deadline
from server.domain.caller import Caller
from server.domain.errors import (
    ErrorReason,
    FieldInvalid,
    FieldViolation,
    ServiceError,
    TooManyRequests,
    TooManyStreams,
)
from server.ports import Identities

_KINDS = ("unary_unary", "unary_stream", "stream_stream")
# A caller's deadline begins before its request travels here.
_CLOCKS_DIFFER_SECONDS = 0.05
_REFLECTION = "/grpc.reflection."
_HEALTH = "/grpc.health."
# Probes ask every few seconds.
_QUIET = (_HEALTH, _REFLECTION)
_REFLECTION_SECONDS = 1.0
_REFUSED_SECONDS = 1.0
_LOGGED_BYTES = 128

Context = Any
Handler = Callable[[Any, Any], Any]


class CallLimits(NamedTuple):
    """How many calls may be open at once: unary ones, and streams."""

    calls: int
    streams: int


class _Kind(Enum):
    """Calls that are counted together."""

    CALL = auto()
    STREAM = auto()
    HEALTH = auto()
    REFLECTION = auto()
    # A call of any kind above its limit, until its caller has the error.
    REFUSED = auto()


def _kind_of(method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> _Kind:
    if method.startswith(_HEALTH):
        return _Kind.HEALTH
    if method.startswith(_REFLECTION):
        return _Kind.REFLECTION
    return _Kind.STREAM if handler.response_streaming else _Kind.CALL


class _RefusedCalls:
    """Counts the calls above the limits, and logs their number once a second at most: a line for
    each would let a flood of calls flood the log."""

    def __init__(self) -> None:
        self._counts: Counter[ErrorReason] = Counter()

    def add(self, reason: ErrorReason) -> None:
        """Count one more."""
        if not self._counts:
            asyncio.get_running_loop().call_later(_REFUSED_SECONDS, self._log)
        self._counts[reason] += 1

    def _log(self) -> None:
        for reason, calls in self._counts.items():
            logger().warning("calls refused", reason=reason.value, calls=calls)
        self._counts.clear()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The only interceptor of the server.

    It wraps a method's handler once, not once a call, as general interceptor libraries do: the
    wrapping is half of their cost, and they leave the parsing of the request outside. Methods of
    this API get a Call in place of gRPC's context; those of standard services get the context.
    """

    def __init__(
        self,
        caller: Caller,
        default_namespace: str,
        limits: CallLimits,
        identities: Identities | None = None,
    ) -> None:
        """`caller` makes the calls where there are no `identities`."""
        self._caller = caller
        self._identities = identities
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
        """Return the method's wrapped handler; None for a method that does not exist."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._wrap(method, handler)
        return self._handlers[method]

    async def drained(self) -> None:
        """Wait until no call is open.

        A reflection stream stays open for as long as its caller likes. It is waited for a little
        longer than the others, since callers use it to read the details of their last status.
        """
        await self._until(lambda: self._open.total() == self._open[_Kind.REFLECTION])
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFLECTION_SECONDS):
                await self._until(lambda: not self._open.total())

    async def _until(self, over: Callable[[], bool]) -> None:
        while not over():
            self._ended.clear()
            await self._ended.wait()

    def _wrap(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        arity = next(kind for kind in _KINDS if getattr(handler, kind))
        # A partial: the frame of a function here would keep the request, see `_call`.
        call = partial(self._call, method, _kind_of(method, handler), getattr(handler, arity))
        parse = _parser(handler.request_deserializer, streamed=handler.request_streaming)
        serialize = _serializer(handler.response_serializer)
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(call, parse, serialize)
        return wrapped

    async def _call(
        self, method: str, kind: _Kind, handler: Handler, request: Any, context: Context
    ) -> Any:
        call = Call(self._caller, Deadline.after(context.time_remaining()), secrets.token_hex(4))
        refusal = self._over_limit(kind)
        quiet = refusal is not None or method.startswith(_QUIET)
        line = CallLog(method, request, self._default_namespace, call.trace, quiet=quiet)
        if refusal:
            self._refused.add(refusal.reason)
        counted_as = _Kind.REFUSED if refusal else kind
        self._open[counted_as] += 1
        try:
            argument = call if kind in (_Kind.CALL, _Kind.STREAM) else context
            outcome = await _outcome(
                refusal, self._identities, handler, request, argument, context, line
            )
            # gRPC keeps an abort with its call, and the abort's traceback this frame: a request of
            # 1 MiB, which takes 30 MiB as a message, would stay until a garbage collection.
            del request
            if isinstance(outcome, _Abort):
                await context.abort(*outcome)
            return outcome
        finally:
            self._open[counted_as] -= 1
            self._ended.set()

    def _over_limit(self, kind: _Kind) -> ServiceError | None:
        """Return the error of a call above its limit; probes have none."""
        if kind is _Kind.CALL and self._open[kind] >= self._limits.calls:
            return TooManyRequests(
                f"this server already answers {self._limits.calls} calls, its limit: try again soon"
            )
        if kind in (_Kind.STREAM, _Kind.REFLECTION) and self._open[kind] >= self._limits.streams:
            return TooManyStreams(
                f"this server already has {self._limits.streams} open streams, its limit: try again"
                " soon"
            )
        return None


def _parser(
    deserializer: Callable[[bytes], Any] | None, *, streamed: bool
) -> Callable[[bytes], Any]:
    """Return a deserializer that turns unreadable bytes into an error of ours.

    gRPC parses a single request outside of the call, and would send the text of an exception: the
    error takes the request's place until the call begins.
    """

    def parse(raw: bytes) -> Any:
        try:
            return deserializer(raw) if deserializer else raw
        except DecodeError:
            error = FieldInvalid(
                [FieldViolation("request", "must be the protobuf message of this method")]
            )
            if streamed:
                raise error from None
            return error

    return parse


def _serializer(serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Return a serializer that passes bytes on as they are."""

    def serialize(response: Any) -> bytes:
        return response if isinstance(response, bytes) or not serializer else serializer(response)

    return serialize


class _Abort(NamedTuple):
    """The arguments of `context.abort`."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


async def _outcome(
    refusal: ServiceError | None,
    identities: Identities | None,
    handler: Handler,
    request: Any,
    argument: Call | Context,
    context: Context,
    line: CallLog,
) -> Any:
    """Return the response, or an _Abort for an error, once it is logged."""
    try:
        if refusal:
            raise refusal
        # Health and reflection, which get the context, are open.
        if identities is not None and isinstance(argument, Call):
            argument = await _authenticated(identities, argument, context)
            line.fields["user"] = cut(argument.caller.name, _LOGGED_BYTES)
        response = await _handle(handler, request, argument, context)
        line.write(grpc.StatusCode.OK)
        return response
    except grpc.aio.AbortError as aborted:
        line.write(context.code())
        del request  # as in `_call`
        raise aborted.with_traceback(None) from None
    except grpc.aio.InternalError:
        # gRPC found the client gone as it wrote, before our task was cancelled.
        line.write(_code_of_cancellation(context))
        raise
    except Exception as e:
        return _abort(e, line)
    except asyncio.CancelledError as e:
        # A client that leaves cancels this task. A CancelledError from elsewhere is a bug, and
        # would leave the client without a response for ever.
        task = asyncio.current_task()
        if task and task.cancelling():
            line.write(_code_of_cancellation(context))
            raise
        return _abort(e, line)


async def _authenticated(identities: Identities, call: Call, context: Context) -> Call:
    token = bearer_token(context.invocation_metadata())
    caller = await identities.authenticate(token)
    return Call(caller, call.deadline, call.trace, token)


async def _handle(
    handler: Handler, request: Any, argument: Call | Context, context: Context
) -> Any:
    if isinstance(request, ServiceError):
        raise request
    if isinstance(request, Message):
        check_limits(request)
    handling = handler(request, argument)
    if not inspect.isasyncgen(handling):
        return await handling
    async with aclosing(handling) as responses:
        async for response in responses:
            await context.write(response)
    return None


def _abort(error: BaseException, line: CallLog) -> _Abort:
    if not isinstance(error, ServiceError):
        line.fields.update(error_id=line.trace, exc_info=error)
        error = ServiceError(
            f"a bug of the server; report the id {line.trace}, under which its log has it",
            id=line.trace,
        )
    line.fields["reason"] = error.reason.value
    line.write(code_of(error))
    return _Abort(code_of(error), message_of(error), trailing_metadata(error))


def _code_of_cancellation(context: Context) -> grpc.StatusCode:
    left = context.time_remaining()
    expired = left is not None and left < _CLOCKS_DIFFER_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
