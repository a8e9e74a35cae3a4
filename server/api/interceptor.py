"""The interceptor of every call: makes the Call, counts it, logs it, turns errors into statuses."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError, Message

from server.api.audit import Audit, AuditedCall
from server.api.authentication import Authentication
from server.api.call_limits import (
    AdmittedCall,
    CallAdmission,
    CallKind,
    CallLimits,
    RefusedCalls,
)
from server.api.call_log import CallLog
from server.api.errors import code_of, cut, message_of, trailing_metadata
from server.api.limits import check_limits
from server.api.request_outline import Outlines
from server.control.call import Authenticate, Call
from server.control.impersonation import IMPERSONATE
from server.deadline import Deadline
from server.domain.caller import Caller
from server.domain.errors import (
    AuditUnavailable,
    FieldInvalid,
    FieldViolation,
    PermissionDenied,
    ServiceError,
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
# gRPC takes calls from each queue in turn: a flood of Deploys keeps no probe and no Get waiting.
_OWN_QUEUES = (
    "/grpc.health.v1.Health/Check",
    "/modelservice.v1.ModelService/Get",
    "/modelservice.v1.ModelService/Deploy",
)
_LOGGED_BYTES = 128
# A larger request is checked in outline first. A smaller one takes 1 ms at most to parse.
_LARGE_BYTES = 32 * 2**10

Context = Any
Handler = Callable[..., Any]


class _Method(NamedTuple):
    """A method, `package.Service/Name`.

    `handle` takes a request, the argument of the handler, and gRPC's context.
    `own`: of this API, so its handler takes a Call in place of gRPC's context. `open`: its callers
    are not authenticated. `quiet`: its calls are logged at debug level. `reads`: its calls change
    nothing. `parse` makes its request of bytes; None where gRPC does, since requests are streamed.
    `outline` makes only the outline of it, where the method is of this API.
    """

    name: str
    handle: Callable[[Any, Any, Context], Awaitable[Any]]
    kind: CallKind
    own: bool
    open: bool
    quiet: bool
    reads: bool
    parse: Callable[[bytes], Any] | None
    outline: Callable[[bytes], Any] | None

    @property
    def changes(self) -> bool:
        """Return whether its calls may change something of this API's."""
        return self.own and not self.reads


class _OpenCall:
    """A call that has arrived, with its log line.

    It gets a caller and how that one is authenticated again, its place among the calls that are
    admitted, and its audit record, if it has one.
    """

    __slots__ = (
        "admitted",
        "authenticate",
        "caller",
        "context",
        "impersonate",
        "line",
        "method",
        "record",
    )

    def __init__(self, method: _Method, context: Context, line: CallLog, caller: Caller) -> None:
        self.method = method
        self.context = context
        self.line = line
        self.caller = caller
        self.authenticate: Authenticate | None = None
        self.impersonate: Callable[[], Authenticate] | None = None
        self.admitted: AdmittedCall | None = None
        self.record: AuditedCall | None = None


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
        audit: Audit | None = None,
        *,
        open_reflection: bool = True,
    ) -> None:
        """`caller` makes the calls where there is no `authentication`. Health is always open."""
        self._open_reflection = open_reflection
        self._caller = caller
        self._authentication = authentication
        self._audit = audit
        self._default_namespace = default_namespace
        self._admission = CallAdmission(limits)
        self._refused = RefusedCalls()
        self._ended = asyncio.Event()
        self._outlines = Outlines()

    async def drained(self) -> None:
        """Wait until no call is open.

        A reflection stream stays open for as long as its caller likes. It is waited for a little
        longer than the others, since callers use it to read the details of their last status.
        """
        self._refused.release()
        calls = self._admission
        others = (calls.unary, calls.streams, calls.health)
        await self._until(lambda: not any(kind.begun for kind in others))
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFLECTION_SECONDS):
                await self._until(lambda: not any(k.begun for k in (*others, calls.reflection)))

    async def _until(self, over: Callable[[], bool]) -> None:
        while not over():
            self._ended.clear()
            await self._ended.wait()

    def intercept(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of a method (`/package.Service/Name`), wrapped."""
        arity = next(kind for kind in _KINDS if getattr(handler, kind))
        kind = self._kind_of(method, streaming=handler.response_streaming)
        own = kind in (self._admission.unary, self._admission.streams)
        is_reflection = kind is self._admission.reflection
        behavior = getattr(handler, arity)
        parse = _parser(handler.request_deserializer)
        # gRPC parses streamed requests; a single one is parsed once its call is admitted.
        by_grpc, by_us = (parse, None) if handler.request_streaming else (None, parse)
        known = _Method(
            name=method[1:],
            handle=_handle(behavior, writes=own and handler.response_streaming),
            kind=kind,
            own=own,
            open=not own and not (is_reflection and not self._open_reflection),
            quiet=method.startswith(_QUIET),
            reads=method.rpartition("/")[2].startswith(_READS),
            parse=by_us,
            outline=_parser(self._outline(method)) if own else None,
        )
        # A partial: the frame of a function here would keep the request, see `_call`. Of the
        # function, not of the method: gRPC examines it in each call, and a method takes longer.
        call = partial(CallInterceptor._call, self, known)
        serialize = _serializer(handler.response_serializer)
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(call, by_grpc, serialize)
        return wrapped

    def _outline(self, method: str) -> Callable[[bytes], Message]:
        described = Default().FindMethodByName(method[1:].replace("/", "."))
        return self._outlines.of(described.input_type).FromString

    def _kind_of(self, method: str, *, streaming: bool) -> CallKind:
        if method.startswith(_HEALTH):
            return self._admission.health
        if method.startswith(_REFLECTION):
            return self._admission.reflection
        return self._admission.streams if streaming else self._admission.unary

    async def _call(self, method: _Method, request: Any, context: Context) -> Any:
        # No secret: it names the call in the log.
        trace = f"{random.getrandbits(32):08x}"
        line = CallLog(method.name, trace, quiet=method.quiet, late=method.reads)
        method.kind.begun += 1
        try:
            outcome = await self._outcome(_OpenCall(method, context, line, self._caller), request)
            # gRPC keeps an abort with its call, and the abort's traceback this frame: a request of
            # 1 MiB would stay until a garbage collection, and with the context the whole call.
            del request
            if isinstance(outcome, _Abort):
                aborting = context.abort(*outcome)
                del context, line, outcome
                return await aborting
            return outcome
        finally:
            method.kind.begun -= 1
            self._ended.set()

    async def _outcome(self, current: _OpenCall, request: Any) -> Any:
        """Return the response, or an _Abort for an error, once it is on record and logged."""
        context, line, size = current.context, current.line, _size(request)
        try:
            try:
                if self._authentication and not current.method.open:
                    authenticated = await self._authentication.authenticated(context, size)
                    current.caller, current.authenticate, current.impersonate = authenticated
                if current.caller.name:
                    line.fields["user"] = cut(current.caller.name, _LOGGED_BYTES)
                current.admitted = await self._admission.admit(
                    current.method.kind,
                    current.caller.name,
                    writes=current.method.changes,
                    request_bytes=size,
                    time_remaining=context.time_remaining,
                )
            except ServiceError as refusal:
                await self._refuse(current, size, refusal)
                raise
            if current.impersonate:
                # Admitted before, since this takes a review for each name that a caller invents.
                await _impersonate(current, current.impersonate)
            handling = self._handling(current, request)
            # A stream needs it no more.
            request = None
            response = await handling
            if current.record:
                await current.record.end(grpc.StatusCode.OK.name)
            line.write(grpc.StatusCode.OK)
            return response
        except grpc.aio.AbortError as aborted:
            line.write(context.code())
            request = None  # as in `_call`
            raise aborted.with_traceback(None) from None
        except grpc.aio.InternalError:
            # gRPC found the client gone as it wrote, before our task was cancelled.
            line.write(_code_of_cancellation(context))
            raise
        except Exception as e:
            return await self._abort(e, current)
        except asyncio.CancelledError as e:
            # A client that leaves cancels this task. A CancelledError from elsewhere is a bug, and
            # would leave the client without a response for ever.
            task = asyncio.current_task()
            if task and task.cancelling():
                code = _code_of_cancellation(context)
                if current.record:
                    current.record.put_end(code.name)
                line.write(code)
                raise
            return await self._abort(e, current)
        finally:
            if current.admitted:
                current.admitted.end()

    async def _refuse(self, current: _OpenCall, size: int, refusal: ServiceError) -> None:
        """Put the refusal of a call that is not admitted on record; hold back those of a flood."""
        current.line.quiet = True
        if record := self._record(current):
            # Before the refusal is held: the client may leave meanwhile.
            record.put_end(code_of(refusal).name, refusal.reason.value, _user_in(refusal))
        await self._refused.add(refusal.reason, size)

    def _handling(self, current: _OpenCall, request: Any) -> Awaitable[Any]:
        """Parse the request, and return its handler's response to await."""
        method, context, line = current.method, current.context, current.line
        if method.parse:
            if method.outline and len(request) > _LARGE_BYTES:
                self._check(method.outline(request), line)
            request = method.parse(request)
            self._check(request, line)
        if not method.own:
            return method.handle(request, context, context)
        deadline = Deadline.after(context.time_remaining())
        record = self._record(current) if method.changes else None
        call = Call(current.caller, deadline, line.trace, current.authenticate, record)
        return method.handle(request, call, context)

    def _check(self, request: Any, line: CallLog) -> None:
        line.describe(request, self._default_namespace)
        if isinstance(request, Message):
            check_limits(request)

    def _record(self, current: _OpenCall) -> AuditedCall | None:
        """Return the call's audit record. That of a read is made only where it is refused."""
        method = current.method
        if self._audit and method.own:
            if current.record is None:
                peer, writes = current.context.peer, not method.reads
                current.record = AuditedCall(self._audit, current.line.fields, peer, writes=writes)
            current.record.caller = current.caller
        return current.record

    async def _abort(self, error: BaseException, current: _OpenCall) -> _Abort:
        line = current.line
        if not isinstance(error, ServiceError):
            line.fields.update(error_id=line.trace, exc_info=error)
            error = ServiceError(
                f"a bug of the server; report the id {line.trace}, under which its log has it",
                id=line.trace,
            )
        code = code_of(error)
        line.fields["reason"] = error.reason.value
        if isinstance(error, PermissionDenied) and error.access.verb == IMPERSONATE:
            _, *names = error.access
            line.fields.setdefault("target", cut("/".join(filter(None, names)), _LOGGED_BYTES))
        line.write(code)
        if record := self._record(current):
            # The record waits for the sink then, and the caller gets its error.
            with suppress(AuditUnavailable):
                await record.end(code.name, error.reason.value, _user_in(error))
        return _Abort(code, message_of(error), trailing_metadata(error))


class InterceptedServer:
    """Takes services as a server does, with an interceptor around their methods."""

    def __init__(self, server: grpc.aio.Server, interceptor: CallInterceptor) -> None:
        self._server = server
        self._interceptor = interceptor

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Register the methods of _OWN_QUEUES; the others come by their service's generic handler.

        For each call, grpc.aio has a task wait for every registered method. With all of them that
        takes a tenth of a Get.
        """
        intercepted = {
            name: self._interceptor.intercept(f"/{service_name}/{name}", handler)
            for name, handler in method_handlers.items()
            if f"/{service_name}/{name}" in _OWN_QUEUES
        }
        if intercepted:
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


def _parser(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Return a deserializer that turns unreadable bytes into an error of ours."""

    def parse(raw: bytes) -> Any:
        try:
            return deserializer(raw) if deserializer else raw
        except DecodeError:
            raise FieldInvalid(
                [FieldViolation("request", "must be the protobuf message of this method")]
            ) from None

    return parse


def _serializer(serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Return a serializer that passes bytes on as they are."""

    def serialize(response: Any) -> bytes:
        return response if isinstance(response, bytes) or not serializer else serializer(response)

    return serialize


async def _impersonate(current: _OpenCall, impersonate: Callable[[], Authenticate]) -> None:
    current.authenticate = authenticate = impersonate()
    current.caller = await authenticate()
    current.line.fields["on_behalf_of"] = cut(current.caller.name, _LOGGED_BYTES)


def _handle(handler: Handler, *, writes: bool) -> Callable[[Any, Any, Context], Awaitable[Any]]:
    """Return a function that calls a handler.

    It may be an asynchronous generator of responses. With `writes` it takes a function that writes
    a response.
    """
    if inspect.isasyncgenfunction(handler):
        return lambda request, argument, context: _write_all(handler(request, argument), context)
    if writes:
        return lambda request, argument, context: handler(request, argument, context.write)
    return lambda request, argument, context: handler(request, argument)


class _Abort(NamedTuple):
    """The arguments of `context.abort`."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


async def _write_all(responses: AsyncGenerator[Any, None], context: Context) -> None:
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


def _size(request: Any) -> int:
    """Return the bytes of a request that is not parsed; 0 for streamed ones."""
    return len(request) if isinstance(request, bytes) else 0


def _user_in(refusal: ServiceError) -> str:
    """Return the user that a refusal names, if it comes before there is a caller."""
    return refusal.metadata.get("user", "")


def _code_of_cancellation(context: Context) -> grpc.StatusCode:
    left = context.time_remaining()
    expired = left is not None and left < _CLOCKS_DIFFER_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
