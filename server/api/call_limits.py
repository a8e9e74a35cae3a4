"""Limits of how many calls are answered: of all callers together, and of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from server.api.call_log import logger
from server.domain.errors import ErrorReason, ServiceError, TooManyRequests, TooManyStreams
from server.token_bucket import TokenBucket

# Idle callers whose rate is remembered. One that returns after a second has its whole burst anyway.
MOST_IDLE_CALLERS = 10_000
# Refusals beyond so many in a second are held, so that a client that calls again at once is slowed
# down. They hold their request, and gRPC's memory of a call.
PROMPT_REFUSALS = 200
LEAST_HELD_SECONDS = 1.0
MOST_HELD_SECONDS = 10.0
MOST_HELD_BYTES = 128 * 2**20
BYTES_OF_A_CALL = 32 * 2**10
SMALL_REQUEST_BYTES = 32 * 2**10
# Of requests with known credentials, and as many with tokens that are not known.
MOST_ARRIVING_BYTES = 32 * 2**20
_SUMMED_SECONDS = 1.0
_UNCOUNTED = nullcontext()


class CallerLimits(NamedTuple):
    """What each caller may have: calls a second, and open calls and streams."""

    rate: int
    calls: int
    streams: int


class CallLimits(NamedTuple):
    """How many calls may be open at once: unary ones, and streams. `caller`: those of each."""

    calls: int
    streams: int
    caller: CallerLimits | None = None


@dataclass(slots=True, eq=False)
class CallKind:
    """A kind of calls. `begun` counts those whose callers have no answer yet, `open` the admitted
    ones."""

    noun: str
    error: type[ServiceError] = TooManyRequests
    limit: float = float("inf")
    limit_of_caller: float = float("inf")
    begun: int = 0
    open: int = 0


@dataclass(slots=True)
class _Caller:
    """The open calls of a caller, and its calls a second."""

    name: str
    bucket: TokenBucket
    open: Counter[CallKind] = field(default_factory=Counter)


class CallAdmission:
    """Admits calls within the limits of the server and of each caller.

    An anonymous caller stands for all callers, so it has no limits of its own. Memory is bounded:
    callers with open calls are as many as the server's limits, and of idle ones the last are kept.
    """

    def __init__(self, limits: CallLimits) -> None:
        self.unary = CallKind("calls in progress", TooManyRequests, limits.calls)
        self.streams = CallKind("open streams", TooManyStreams, limits.streams)
        self.reflection = CallKind("open streams", TooManyStreams, limits.streams)
        self.health = CallKind("calls in progress")
        self._rate = 0
        if own := limits.caller:
            self._rate = own.rate
            self.unary.limit_of_caller, self.streams.limit_of_caller = own.calls, own.streams
        self._busy: dict[str, _Caller] = {}
        self._idle: OrderedDict[str, _Caller] = OrderedDict()

    def admit(self, kind: CallKind, name: str) -> AdmittedCall:
        """Count one more call of a caller until it ends. Raises TooManyRequests, TooManyStreams."""
        if kind.open >= kind.limit:
            raise kind.error(
                f"this server already has {kind.limit} {kind.noun}, its limit: try again soon"
            )
        caller = self._taken(kind, name) if self._rate and name else None
        kind.open += 1
        return AdmittedCall(self, kind, caller)

    def end(self, kind: CallKind, caller: _Caller | None) -> None:
        """Count one less."""
        kind.open -= 1
        if caller is None:
            return
        caller.open[kind] -= 1
        if not caller.open.total():
            del self._busy[caller.name]
            self._idle[caller.name] = caller
            if len(self._idle) > MOST_IDLE_CALLERS:
                self._idle.popitem(last=False)

    def _taken(self, kind: CallKind, name: str) -> _Caller:
        caller = self._busy.get(name) or self._idle.get(name)
        if caller is None:
            caller = _Caller(name, TokenBucket(self._rate, burst=self._rate))
        if caller.open[kind] >= kind.limit_of_caller:
            raise kind.error(
                f"this caller already has {kind.limit_of_caller} {kind.noun}, the limit of each"
                " caller: try again soon"
            )
        now = time.monotonic()
        if caller.bucket.delay(now):
            raise TooManyRequests(
                f"this caller makes more than {self._rate} calls a second, the limit of each"
                " caller: try again soon"
            )
        caller.bucket.take(now)
        caller.open[kind] += 1
        self._idle.pop(name, None)
        self._busy[name] = caller
        return caller


class AdmittedCall(NamedTuple):
    """A call that was admitted, until `end`."""

    admission: CallAdmission
    kind: CallKind
    caller: _Caller | None

    def end(self) -> None:
        """Make room for the next one."""
        self.admission.end(self.kind, self.caller)


class ArrivingRequests:
    """Bounds the memory of requests that wait until their callers are authenticated.

    Requests with unknown tokens have a share of their own, so that a flood of them refuses no known
    caller. Requests of up to 32 KiB do not count: `UNKNOWN_WAITING` bounds those with unknown
    tokens.
    """

    def __init__(self) -> None:
        self._bytes = {True: 0, False: 0}

    def counted(self, size: int, *, known: bool) -> AbstractContextManager[None]:
        """Count a request for the length of a block. Raises TooManyRequests."""
        return _UNCOUNTED if size <= SMALL_REQUEST_BYTES else self._counted(size, known)

    @contextmanager
    def _counted(self, size: int, known: bool) -> Iterator[None]:
        if self._bytes[known] + size > MOST_ARRIVING_BYTES:
            raise TooManyRequests(
                "this server already authenticates the callers of many large requests: try again"
                " soon"
            )
        self._bytes[known] += size
        try:
            yield
        finally:
            self._bytes[known] -= size


class RefusedCalls:
    """Counts the calls that are refused before they begin: those without an identity, and those
    above the limits.

    It logs their number once a second at most, since a line for each would let a flood of calls
    flood the log. It holds back the refusals of a flood.
    """

    def __init__(self) -> None:
        self._counts: Counter[ErrorReason] = Counter()
        self._held = 0
        self._held_bytes = 0
        self._released = asyncio.Event()

    async def add(self, reason: ErrorReason, request_bytes: int) -> None:
        """Count one more, and return once its caller may have the error."""
        if not self._counts:
            asyncio.get_running_loop().call_later(_SUMMED_SECONDS, self._log)
        self._counts[reason] += 1
        holds = BYTES_OF_A_CALL + request_bytes
        prompt = self._counts.total() <= PROMPT_REFUSALS
        if prompt or self._held_bytes + holds > MOST_HELD_BYTES:
            return
        self._held += 1
        self._held_bytes += holds
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._delay()):
                    await self._released.wait()
        finally:
            self._held -= 1
            self._held_bytes -= holds

    def _delay(self) -> float:
        """Return how long to hold one, so that as many as PROMPT_REFUSALS are let go in a second;
        at random, so that their clients do not call again all at once."""
        seconds = min(MOST_HELD_SECONDS, max(LEAST_HELD_SECONDS, self._held / PROMPT_REFUSALS))
        return seconds * random.uniform(0.5, 1.5)  # noqa: S311

    def release(self) -> None:
        """Hold back none any more, and log those of the last second, since the server stops."""
        self._released.set()
        self._log()

    def _log(self) -> None:
        for reason, calls in self._counts.items():
            logger().warning("calls refused", reason=reason.value, calls=calls)
        self._counts.clear()
