"""Limits of how many calls are answered: of all callers together, and of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from server.api.call_log import logger
from server.api.write_pace import WritePace
from server.domain.errors import ErrorReason, ServiceError, TooManyRequests, TooManyStreams
from server.token_bucket import TokenBucket

# Idle callers whose rate is remembered. One that returns after a second has its whole burst anyway.
MOST_IDLE_CALLERS = 10_000
# So many reads of one caller begin at once, and one write. Further ones take turns, so many a
# second at most, so that a burst of one caller keeps no other one waiting.
READS_AT_ONCE = 16
READS_A_SECOND = 1000
WRITES_A_SECOND = 200
MOST_WRITES_WAITING = 500
# Of calls that wait for their turn: of all callers, and of each, whose 500 writes may have 16 KiB.
MOST_WAITING_BYTES = 64 * 2**20
MOST_WAITING_BYTES_OF_CALLER = 24 * 2**20
# Refusals beyond so many in a second, and so many at once, are held, so that a client that calls
# again at once is slowed down. They hold their request, and gRPC's memory of a call.
PROMPT_REFUSALS = 200
PROMPT_AT_ONCE = 20
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
    """A caller's calls a second, and the turns of its reads and writes. `calls`: those that wait
    for their turn, and the open ones. `waiting_bytes`, `waiting_writes`: of those that wait."""

    name: str
    bucket: TokenBucket
    reads: TokenBucket
    writes: TokenBucket
    calls: int = 0
    waiting_bytes: int = 0
    waiting_writes: int = 0
    open: Counter[CallKind] = field(default_factory=Counter)
    pace: WritePace = field(default_factory=WritePace)


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
        self._rate = self._writes = self._most_waiting_bytes = 0
        if own := limits.caller:
            self._rate = own.rate
            # A caller that may make more calls than by default may make as many more writes.
            self._writes = max(WRITES_A_SECOND, own.rate * WRITES_A_SECOND // 500)
            # All that it may send at one moment may wait.
            self._most_waiting_bytes = max(
                MOST_WAITING_BYTES_OF_CALLER, own.rate * 3 * BYTES_OF_A_CALL // 2
            )
            self.unary.limit_of_caller, self.streams.limit_of_caller = own.calls, own.streams
        self._busy: dict[str, _Caller] = {}
        self._idle: OrderedDict[str, _Caller] = OrderedDict()
        self._waiting_bytes = 0

    async def admit(
        self,
        kind: CallKind,
        name: str,
        *,
        writes: bool = False,
        request_bytes: int = 0,
        time_remaining: Callable[[], float | None] = lambda: None,
    ) -> AdmittedCall:
        """Count one more call of a caller until it ends, once it is its turn.

        `time_remaining` returns the seconds until its deadline. Raises TooManyRequests,
        TooManyStreams.
        """
        if not self._rate or not name:
            _check_room(kind)
            kind.open += 1
            return AdmittedCall(self, kind, None)
        caller = self._busy.get(name) or self._idle.get(name) or self._new(name)
        _check_room(kind, caller)
        now = time.monotonic()
        turns = caller.writes if writes else caller.reads
        delay = turns.delay(now)
        if caller.bucket.delay(now):
            raise TooManyRequests(
                f"this caller makes more than {self._rate} calls a second, the limit of each"
                " caller: try again soon"
            )
        if writes and caller.waiting_writes >= MOST_WRITES_WAITING:
            raise TooManyRequests(
                f"{caller.waiting_writes} writes of this caller wait for their turn, the limit of"
                " each caller: try again soon"
            )
        holds = BYTES_OF_A_CALL + request_bytes
        waits = delay > 0 or (writes and not caller.pace.is_due())
        if waits:
            self._check_wait(caller, delay, holds, time_remaining())
        caller.bucket.take(now)
        turns.take(now)
        self._idle.pop(name, None)
        self._busy[name] = caller
        caller.calls += 1
        try:
            if waits:
                await self._wait(caller, turns, delay, holds)
                _check_room(kind, caller)
            elif writes:
                caller.pace.begin()
        except BaseException:
            self._leave(caller)
            raise
        kind.open += 1
        caller.open[kind] += 1
        return AdmittedCall(self, kind, caller)

    def end(self, kind: CallKind, caller: _Caller | None) -> None:
        """Count one less."""
        kind.open -= 1
        if caller:
            caller.open[kind] -= 1
            self._leave(caller)

    def _check_wait(
        self, caller: _Caller, delay: float, holds: int, remaining: float | None
    ) -> None:
        """Raise TooManyRequests if a call may not wait for its turn, or would wait in vain."""
        if remaining is not None and delay > remaining:
            raise TooManyRequests(
                f"this caller's calls take turns, and this one's comes in {delay:.1f} s, after its"
                " deadline: try again soon"
            )
        # One call may wait however large it is.
        if caller.waiting_bytes and caller.waiting_bytes + holds > self._most_waiting_bytes:
            raise TooManyRequests(
                "the calls of this caller that wait for their turn have"
                f" {self._most_waiting_bytes} bytes, the limit of each caller: try again soon"
            )
        most = max(MOST_WAITING_BYTES, self._most_waiting_bytes)
        if self._waiting_bytes + holds > most:
            raise TooManyRequests(
                f"the calls that wait for their turn have {most} bytes, the limit of this server:"
                " try again soon"
            )

    async def _wait(self, caller: _Caller, turns: TokenBucket, delay: float, holds: int) -> None:
        """Wait for a turn. A call that leaves meanwhile gives it back."""
        writes = turns is caller.writes
        self._waiting_bytes += holds
        caller.waiting_bytes += holds
        caller.waiting_writes += writes
        try:
            await asyncio.sleep(delay)
            if writes:
                await caller.pace.wait()
        except asyncio.CancelledError:
            turns.give_back()
            raise
        finally:
            self._waiting_bytes -= holds
            caller.waiting_bytes -= holds
            caller.waiting_writes -= writes

    def _leave(self, caller: _Caller) -> None:
        caller.calls -= 1
        if not caller.calls:
            del self._busy[caller.name]
            self._idle[caller.name] = caller
            if len(self._idle) > MOST_IDLE_CALLERS:
                self._idle.popitem(last=False)

    def _new(self, name: str) -> _Caller:
        return _Caller(
            name,
            TokenBucket(self._rate, burst=self._rate),
            TokenBucket(max(READS_A_SECOND, 2 * self._rate), burst=READS_AT_ONCE),
            TokenBucket(self._writes, burst=1),
        )


def _check_room(kind: CallKind, caller: _Caller | None = None) -> None:
    """Raise the error of a kind if the server or this caller has as many calls as it may."""
    if kind.open >= kind.limit:
        raise kind.error(
            f"this server already has {kind.limit} {kind.noun}, its limit: try again soon"
        )
    if caller and caller.open[kind] >= kind.limit_of_caller:
        raise kind.error(
            f"this caller already has {kind.limit_of_caller} {kind.noun}, the limit of each"
            " caller: try again soon"
        )


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
        self._prompt = TokenBucket(PROMPT_REFUSALS, PROMPT_AT_ONCE)
        self._held = 0
        self._held_bytes = 0
        self._released = asyncio.Event()

    async def add(self, reason: ErrorReason, request_bytes: int) -> None:
        """Count one more, and return once its caller may have the error."""
        if not self._counts:
            asyncio.get_running_loop().call_later(_SUMMED_SECONDS, self._log)
        self._counts[reason] += 1
        holds = BYTES_OF_A_CALL + request_bytes
        now = time.monotonic()
        if not self._prompt.delay(now):
            self._prompt.take(now)
            return
        if self._held_bytes + holds > MOST_HELD_BYTES:
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
