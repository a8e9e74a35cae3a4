"""The interceptor of every call: makes the Call, counts it, logs it, turns errors into statuses."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message

from server.api.authentication import Authentication
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

_KINDS = ("unary_unary", "unary_stream", "stream_stream")
# A caller's deadline begins before its request travels here.
_CLOCKS_DIFFER_SECONDS = 0.05
_REFLECTION = "/grpc.reflection."
_HEALTH = "/grpc.health."
# Probes ask every few seconds.
_QUIET = (_HEALTH, _REFLECTION)
# Of the names of methods that change nothing.
_READS = ("Get", "List", "Watch")
_REFLECTION_SECONDS = 1.0
_REFUSED_SECONDS = 1.0
_LOGGED_BYTES = 128

Context = Any
Handler = Callable[[Any, Any], Any]


class CallLimits(NamedTuple):
    """How many calls may be open at once: unary ones, and streams."""

    calls: int
    streams: int


@dataclass(slots=True, eq=False)
class _OpenCalls:
    """The open calls of one kind. `error`: what a call beyond the limit gets."""

    limit: float = float("inf")
    error: Callable[[], ServiceError] | None = None
    open: int = 0

    def refusal(self) -> ServiceError | None:
        """Return the error of one more call, or None if there is room for it."""
        return self.error() if self.error and self.open >= self.limit else None


@dataclass(frozen=True, slots=True)
class _Method:
    """A method. `own`: of this API, so its handler takes a Call in place of gRPC's context."""

    name: str
    handler: Handler
    calls: _OpenCalls
    own: bool

    @property
    def quiet(self) -> bool:
        """Return whether its calls are logged at debug level."""
        return self.name.startswith(_QUIET)

    @property
    def reads(self) -> bool:
        """Return whether its calls change nothing."""
        return self.name.rpartition("/")[2].startswith(_READS)


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


class CallInterceptor:
    """The only interceptor of the server, around the handler of each method.

    It wraps a handler once, when it is registered. An interceptor of gRPC's is asked anew for each
    call, which takes a tenth of a Get. Methods of this API get a Call in place of gRPC's context;
    those of standard services get the context.
    """

    def __init__(
        self,
        caller: Caller,
        default_namespace: str,
        limits: CallLimits,
        authentication: Authentication | None = None,
    ) -> None:
        """`caller` makes the calls where there is no `authentication`."""
        self._caller = caller
        self._authentication = authentication
        self._default_namespace = default_namespace
        self._unary = _OpenCalls(limits.calls, partial(_too_many_calls, limits.calls))
        streams = partial(_too_many_streams, limits.streams)
        self._streams = _OpenCalls(limits.streams, streams)
        self._reflection = _OpenCalls(limits.streams, streams)
        self._health = _OpenCalls()
        # Calls of any kind above its limit, until their callers have the error.
        self._above_limits = _OpenCalls()
        self._refused = _RefusedCalls()
        self._ended = asyncio.Event()

    async def drained(self) -> None:
        """Wait until no call is open.

        A reflection stream stays open for as long as its caller likes. It is waited for a little
        longer than the others, since callers use it to read the details of their last status.
        """
        others = (self._unary, self._streams, self._health, self._above_limits)
        await self._until(lambda: not any(calls.open for calls in others))
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFLECTION_SECONDS):
                await self._until(lambda: not any(c.open for c in (*others, self._reflection)))

    async def _until(self, over: Callable[[], bool]) -> None:
        while not over():
            self._ended.clear()
            await self._ended.wait()

    def intercept(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of a method (`/package.Service/Name`), wrapped."""
        arity = next(kind for kind in _KINDS if getattr(handler, kind))
        calls = self._counted_with(method, streaming=handler.response_streaming)
        own = calls in (self._unary, self._streams)
        # A partial: the frame of a function here would keep the request, see `_call`. Of the
        # function, not of the method: gRPC examines it in each call, and a method takes longer.
        known = _Method(method, getattr(handler, arity), calls, own)
        call = partial(CallInterceptor._call, self, known)
        parse = _parser(handler.request_deserializer, streamed=handler.request_streaming)
        serialize = _serializer(handler.response_serializer)
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(call, parse, serialize)
        return wrapped

    def _counted_with(self, method: str, *, streaming: bool) -> _OpenCalls:
        if method.startswith(_HEALTH):
            return self._health
        if method.startswith(_REFLECTION):
            return self._reflection
        return self._streams if streaming else self._unary

    async def _call(self, method: _Method, request: Any, context: Context) -> Any:
        # No secret: it names the call in the log.
        trace = f"{random.getrandbits(32):08x}"
        call = Call(self._caller, Deadline.after(context.time_remaining()), trace)
        refusal = method.calls.refusal()
        line = CallLog(
            method.name,
            request,
            self._default_namespace,
            trace,
            quiet=refusal is not None or method.quiet,
            late=method.reads,
        )
        if refusal:
            self._refused.add(refusal.reason)
        counted = self._above_limits if refusal else method.calls
        counted.open += 1
        try:
            argument = call if method.own else context
            outcome = await _outcome(
                refusal, self._authentication, method.handler, request, argument, context, line
            )
            # gRPC keeps an abort with its call, and the abort's traceback this frame: a request of
            # 1 MiB, which takes 30 MiB as a message, would stay until a garbage collection.
            del request
            if isinstance(outcome, _Abort):
                await context.abort(*outcome)
            return outcome
        finally:
            counted.open -= 1
            self._ended.set()


class InterceptedServer:
    """Takes services as a server does, and registers their methods with an interceptor."""

    def __init__(self, server: grpc.aio.Server, interceptor: CallInterceptor) -> None:
        self._server = server
        self._interceptor = interceptor

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """See grpc.aio.Server."""
        intercepted = {
            name: self._interceptor.intercept(f"/{service_name}/{name}", handler)
            for name, handler in method_handlers.items()
        }
        self._server.add_registered_method_handlers(service_name, intercepted)

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        """See grpc.aio.Server. Registered methods come first."""
        self._server.add_generic_rpc_handlers(
            [_InterceptedHandler(handler, self._interceptor) for handler in generic_rpc_handlers]
        )


class _InterceptedHandler(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.GenericRpcHandler, interceptor: CallInterceptor) -> None:
        self._handler = handler
        self._interceptor = interceptor
        self._intercepted: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's wrapped handler; None for a method that does not exist."""
        method = handler_call_details.method
        if method not in self._intercepted:
            handler = self._handler.service(handler_call_details)
            if handler is None:
                return None
            self._intercepted[method] = self._interceptor.intercept(method, handler)
        return self._intercepted[method]


def _too_many_calls(limit: int) -> ServiceError:
    return TooManyRequests(f"this server already answers {limit} calls, its limit: try again soon")


def _too_many_streams(limit: int) -> ServiceError:
    return TooManyStreams(
        f"this server already has {limit} open streams, its limit: try again soon"
    )


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
    authentication: Authentication | None,
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
        if authentication is not None and isinstance(argument, Call):
            argument = await authentication.authenticated(argument, context)
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
