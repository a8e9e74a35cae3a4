"""Identities and rights of a cluster, cached, with bounds on what garbage costs the API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial

from server.adapters.kserve.identity.review_cache import ReviewCache
from server.adapters.kserve.identity.reviews import Reviews, expiry_of
from server.domain.caller import Access, BearerToken, Caller
from server.domain.errors import TooManyRequests, Unauthenticated

MOST_TOKENS = 10_000
MOST_RIGHTS = 50_000
# Of tokens that are not known: a burst after a restart, and then so many a second.
UNKNOWN_A_SECOND = 250
UNKNOWN_BURST = 500
UNKNOWN_WAIT_SECONDS = 4.0
# A tenth of the calls that are answered at once as shipped: the others stay for known callers.
UNKNOWN_WAITING = 100
REVIEWS_AT_ONCE = 20


class KubernetesIdentities:
    """Implements `server.ports.Identities` by TokenReviews and SubjectAccessReviews.

    While the API server does not answer, what it allowed is allowed for `outage`, and no token
    beyond its own end.
    """

    def __init__(
        self,
        reviews: Reviews,
        audience: str,
        outage: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reviews = reviews
        self._audience = audience
        self._callers = ReviewCache[str, Caller | None](outage, MOST_TOKENS, clock)
        self._rights = ReviewCache[tuple[Caller, Access], bool](outage, MOST_RIGHTS, clock)
        self._unknown = _Rate(UNKNOWN_A_SECOND, UNKNOWN_BURST)
        # Calls that wait for the review of an unknown token.
        self._waiting = 0
        self._slots = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def authenticate(self, token: BearerToken, *, fresh: bool = False) -> Caller:
        """See `server.ports.Identities`."""
        review = partial(self._review, token)
        waiting = nullcontext() if self._callers.knows(token.digest) else self._waiting_unknown()
        caller = await self._callers.get(token.digest, review, fresh=fresh, waiting=waiting)
        if caller is None:
            raise Unauthenticated(
                f"the token must be one of this cluster for the audience {self._audience!a}, and"
                " must not have expired; kubectl create token ACCOUNT"
                f" --audience={self._audience} makes one"
            )
        if caller.expires and caller.expires <= datetime.now(UTC):
            self._callers.forget(token.digest)
            raise Unauthenticated("the token has expired: call again with a new one")
        return caller

    async def allows(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
        """See `server.ports.Identities`."""
        review = partial(self._allows, caller, access)
        return await self._rights.get((caller, access), review, fresh=fresh)

    def remedy(self, caller: Caller, access: Access) -> str:
        """See `server.ports.Identities`."""
        return f"check with: {access.kubectl_check(caller)}"

    @contextmanager
    def _waiting_unknown(self) -> Iterator[None]:
        """Count a call that waits. Raises TooManyRequests where too many wait already."""
        if self._waiting >= UNKNOWN_WAITING:
            raise _too_many()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _review(self, token: BearerToken) -> Caller | None:
        expires = expiry_of(token)
        if expires and expires <= datetime.now(UTC):
            return None
        if self._callers.knows(token.digest):
            return await self._reviews.caller_of(token)
        await self._unknown.wait()
        async with self._slots:
            return await self._reviews.caller_of(token)

    async def _allows(self, caller: Caller, access: Access) -> bool:
        async with self._slots:
            return await self._reviews.allows(caller, access)


class _Rate:
    """Lets so many pass a second, after a burst."""

    def __init__(self, a_second: float, burst: int) -> None:
        self._interval = 1 / a_second
        self._burst_seconds = burst / a_second
        self._next = 0.0

    async def wait(self) -> None:
        """Wait for one's turn. Raises TooManyRequests where that would take too long."""
        now = time.monotonic()
        turn = max(self._next, now - self._burst_seconds)
        if turn - now > UNKNOWN_WAIT_SECONDS:
            raise _too_many()
        self._next = turn + self._interval
        if turn > now:
            await asyncio.sleep(turn - now)


def _too_many() -> TooManyRequests:
    return TooManyRequests("too many new tokens are sent to this server at once: try again soon")
