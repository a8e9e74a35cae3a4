"""Decide whether a failed attempt is repeated, and when.

tenacity and stamina repeat a function: they cannot resume a stream, nor count patience from a
stream's last message, nor run without a clock of their own. gRPC's retry policy repeats by status
code alone: it cannot see a request_id or a reason, and never repeats a stream that has begun. So
this is written out, with the usual parts: exponential backoff with full jitter, the server's own
delay as its least, and a budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from grpc import StatusCode

from modelservice_client.core.errors import ModelServiceError, NotReachable, Timeout

# An attempt waits between 0 and FIRST * 2^n seconds, at most LONGEST: a server that is back is
# found within 2 s.
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 2.0
# The longest delay that a server asks for is 30 s; more does not come from one of ModelService.
LONGEST_DELAY_SECONDS = 60.0
# Every call is answered within this time, or it hangs.
ATTEMPT_SECONDS = 30.0
# A server that takes only clients with a certificate closes all other connections, and one that
# takes only TLS those in plaintext. A proxy whose server starts does so for a moment.
CLOSED_SECONDS = 3.0
# No step takes longer, a silent stream's included: this process itself was stopped meanwhile.
_STOPPED_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class Retrying:
    """An attempt failed and is repeated after `pause` seconds."""

    method: str
    error: ModelServiceError
    pause: float


@dataclass(frozen=True, slots=True)
class Policy:
    """`clock` gives seconds, `random` numbers of [0, 1). `patience`: the seconds without any answer
    after which no server counts as reachable. `target`: the server's address, for errors."""

    clock: Callable[[], float]
    random: Callable[[], float]
    patience: float = 60.0
    on_retry: Callable[[Retrying], None] | None = None
    target: str = ""

    def begin(self, method: str, timeout: float | None, *, waits: bool = False) -> Retry:
        """Begin the attempts of a call, which `timeout` seconds bound in all. At the end of the
        time one that waits fails with Timeout, another with its last error."""
        return Retry(self, method, math.inf if timeout is None else timeout, waits)


class Retry:
    """The attempts of one call."""

    def __init__(self, policy: Policy, method: str, timeout: float, waits: bool) -> None:
        self._policy = policy
        self._method = method
        self._timeout = timeout
        self._waits = waits
        self._heard = self._began = self._running = policy.clock()
        self._ends = self._began + timeout
        self._failures = 0
        # A server that has never answered has closed each connection since then.
        self._closed_since = math.inf
        # The attempts since a server answered last.
        self._unanswered_attempts = 0
        # Whether an attempt to write was sent and not answered.
        self.lost = False

    def left(self) -> float | None:
        """Return the seconds until the timeout, not below 0; None without one."""
        left = max(self._ends - self._policy.clock(), 0.0)
        return None if math.isinf(left) else left

    def attempt_seconds(self) -> float:
        """Return the timeout of the next attempt of a call that is answered at once."""
        left = self.left()
        return ATTEMPT_SECONDS if left is None else min(left, ATTEMPT_SECONDS)

    def begin_attempt(self) -> None:
        """Mark the time at which an attempt begins."""
        self._began = self._now()
        self._unanswered_attempts += 1

    def heard(self) -> None:
        """Mark that a server has answered."""
        self._heard = self._now()
        self._closed_since = math.inf
        self._unanswered_attempts = 0

    def pause_after(self, error: ModelServiceError) -> float:
        """Return the seconds to wait before the next attempt, or raise where there is none."""
        now = self._now()
        if not isinstance(error, NotReachable):
            self.heard()
        elif error.closed_after_handshake or error.speaks_tls:
            self._closed_since = min(self._closed_since, now)
        else:
            self._closed_since = math.inf
        closes = now - self._closed_since >= CLOSED_SECONDS
        if now - self._began >= LONGEST_BACKOFF_SECONDS:
            self._failures = 0
        if now >= self._ends:
            self._raise_at_the_end(error)
        if not isinstance(error, NotReachable):
            if not error.passes:
                raise error
        elif not error.passes and (closes or not error.speaks_tls):
            raise self._tls_refused(error) from error
        if closes or now - self._heard >= self._policy.patience:
            raise self._unanswered(error, now) from error
        longest = min(FIRST_BACKOFF_SECONDS * 2.0**self._failures, LONGEST_BACKOFF_SECONDS)
        asked = min(error.retry_after or 0.0, LONGEST_DELAY_SECONDS)
        pause = asked + self._policy.random() * longest
        if now + pause >= self._ends:
            self._raise_at_the_end(error)
        self._failures = min(self._failures + 1, 10)
        if self._policy.on_retry:
            self._policy.on_retry(Retrying(self._method, error, pause))
        return pause

    def _now(self) -> float:
        """Return the time. One in which this process was stopped says nothing about servers, so it
        does not count to the patience."""
        now = self._policy.clock()
        if now - self._running > _STOPPED_SECONDS:
            self._heard += now - self._running
            self._closed_since += now - self._running
        self._running = now
        return now

    def _raise_at_the_end(self, error: ModelServiceError) -> NoReturn:
        if not error.passes and not isinstance(error, NotReachable):
            raise error
        if self._waits:
            why = f"not decided in {self._timeout:g} s"
            if error.code is not StatusCode.DEADLINE_EXCEEDED or error.reason:
                why += f"; the last error was {error}"
            late = Timeout(why, code=StatusCode.DEADLINE_EXCEEDED)
            late.service = error.service
            late.timed_out = True
            raise late from error
        if isinstance(error, NotReachable):
            raised = self._unanswered(error, self._policy.clock())
            raised.timed_out = True
            raise raised from error
        error.timed_out = True
        raise error

    def _unanswered(self, error: ModelServiceError, now: float) -> NotReachable:
        attempts = max(self._unanswered_attempts, 1)
        why = error.message.rpartition("last error: ")[2]
        remedy = "Check the address, and that a server runs there"
        closed = isinstance(error, NotReachable) and error.closed_after_handshake
        if isinstance(error, NotReachable) and error.speaks_tls:
            remedy = error.tls_remedy
        elif closed:
            why += ", after the TLS handshake"
            remedy = (
                "If the port takes clients with a certificate only, give one of its CA that has not"
                " expired: cert_file and key_file of Tls. If it is a proxy's, check that a server"
                " runs behind it"
            )
        raised = self._not_reachable(
            error,
            f"no server has answered for {now - self._heard:.0f} s, in {attempts}"
            f" attempt{'s' if attempts > 1 else ''}; the last one: {why}. {remedy}",
        )
        raised.closed_after_handshake = closed
        raised.silence = now - self._heard
        return raised

    def _tls_refused(self, error: NotReachable) -> NotReachable:
        why = error.message.rpartition("last error: ")[2]
        what = "no TLS was asked for" if error.speaks_tls else "the TLS handshake fails"
        return self._not_reachable(error, f"{what}: {why}. {error.tls_remedy}")

    def _not_reachable(self, error: ModelServiceError, message: str) -> NotReachable:
        where = f"{self._method} to {self._policy.target}" if self._policy.target else self._method
        raised = NotReachable(f"{where}: {message}", code=error.code, retry_after=error.retry_after)
        raised.service = error.service
        raised.earlier_attempt_lost = self.lost
        return raised
