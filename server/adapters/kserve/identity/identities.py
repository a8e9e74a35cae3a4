"""Identities and rights of a cluster, cached, with bounds on what garbage costs the API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from weakref import WeakValueDictionary

from server.adapters.kserve.identity.review_cache import ReviewCache
from server.adapters.kserve.identity.reviews import Reviews, expiry_of
from server.domain.caller import Access, BearerToken, Caller
from server.domain.errors import ClusterUnavailable, ServiceError, TooManyRequests, Unauthenticated
from server.token_bucket import TokenBucket

MOST_TOKENS = 10_000
MOST_RIGHTS = 50_000
# Of tokens that are not known: a burst after a restart, and then so many a second.
UNKNOWN_A_SECOND = 250
UNKNOWN_BURST = 500
# Calls that wait for reviews of such tokens, at 32 KiB each: all callers after a restart.
UNKNOWN_WAITING = 2000
# Of unknown tokens, and of rights. The second: of one caller's rights.
REVIEWS_AT_ONCE = 20
REVIEWS_OF_CALLER_AT_ONCE = 10
# Until a review begins. Then callers whose rights are known keep them for now.
WAIT_SECONDS = 10.0
KNOWN_WAIT_SECONDS = 3.0


@dataclass(slots=True, weakref_slot=True, eq=False)
class _ReviewsOfCaller:
    """The reviews of one caller's rights: the slots, and how many were answered."""

    slots: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(REVIEWS_OF_CALLER_AT_ONCE)
    )
    answered: int = 0


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
        *,
        bound: Callable[[Iterable[str]], Collection[str]] = lambda _: (),
    ) -> None:
        """`bound` returns the namespaces in which users and groups are bound to roles."""
        self._reviews = reviews
        self._bound = bound
        self._audience = audience
        self._callers = ReviewCache[str, Caller | None](outage, MOST_TOKENS, clock)
        self._rights = ReviewCache[tuple[Caller, Access], bool](outage, MOST_RIGHTS, clock)
        self._unknown = TokenBucket(UNKNOWN_A_SECOND, UNKNOWN_BURST)
        # Calls that wait for the review of an unknown token.
        self._waiting = 0
        # Apart, so that no flood of unknown tokens delays known callers.
        self._token_slots = asyncio.Semaphore(REVIEWS_AT_ONCE)
        self._right_slots = asyncio.Semaphore(REVIEWS_AT_ONCE)
        # By name: a caller that asks for rights in many namespaces does not delay the others.
        self._of_callers = WeakValueDictionary[str, _ReviewsOfCaller]()

    async def authenticate(self, token: BearerToken, *, fresh: bool = False) -> Caller:
        """See `server.ports.Identities`."""
        caller = None if fresh else self._callers.recent(token.digest)
        if caller is None:
            caller = await self._reviewed(token, fresh=fresh)
        if caller.expires and caller.expires <= datetime.now(UTC):
            self._callers.forget(token.digest)
            raise Unauthenticated("the token has expired: call again with a new one")
        return caller

    def knows(self, token: BearerToken) -> bool:
        """See `server.ports.Identities`."""
        return self._callers.knows(token.digest)

    async def allows(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
        """See `server.ports.Identities`."""
        if not fresh and self._rights.recent((caller, access)):
            return True
        review = partial(self._allows, caller, access)
        return await self._rights.get((caller, access), review, fresh=fresh)

    def likely_namespaces(self, caller: Caller) -> Sequence[str]:
        """See `server.ports.Identities`."""
        by_name, by_group = self._bound((caller.name,)), self._bound(caller.groups)
        return tuple(dict.fromkeys((*sorted(by_name), *sorted(by_group))))

    def remedy(self, caller: Caller, access: Access) -> str:
        """See `server.ports.Identities`."""
        return f"check with: {access.kubectl_check(caller)}"

    async def _reviewed(self, token: BearerToken, *, fresh: bool) -> Caller:
        review = partial(self._review, token)
        waiting = nullcontext() if self.knows(token) else self._waiting_unknown()
        caller = await self._callers.get(token.digest, review, fresh=fresh, waiting=waiting)
        if caller is None:
            raise Unauthenticated(
                f"the token must be one of this cluster for the audience {self._audience!a}, and"
                " must not have expired; kubectl create token ACCOUNT"
                f" --audience={self._audience} makes one"
            )
        return caller

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
        if self.knows(token):
            return await self._reviews.caller_of(token)
        now = time.monotonic()
        delay = self._unknown.delay(now)
        if delay > WAIT_SECONDS:
            raise _too_many()
        self._unknown.take(now)
        async with _slot(self._token_slots, WAIT_SECONDS, _too_many, delay):
            return await self._reviews.caller_of(token)

    async def _allows(self, caller: Caller, access: Access) -> bool:
        own = self._of_callers.get(caller.name)
        if own is None:
            own = self._of_callers[caller.name] = _ReviewsOfCaller()
        answered = own.answered

        def full() -> ServiceError:
            # A flood of the caller's own, which must not prolong its rights as an outage does.
            return _too_many_rights() if own.answered > answered else _too_slow()

        known = self._rights.knows((caller, access))
        wait = KNOWN_WAIT_SECONDS if known else WAIT_SECONDS
        async with _slot(own.slots, wait, full), _slot(self._right_slots, wait, _too_slow):
            allows = await self._reviews.allows(caller, access)
            own.answered += 1
            return allows


@asynccontextmanager
async def _slot(
    slots: asyncio.Semaphore,
    wait: float,
    error: Callable[[], ServiceError],
    delay: float = 0.0,
) -> AsyncIterator[None]:
    """Hold a slot for the length of a block, after a delay. Raises `error` after `wait` seconds."""
    try:
        async with asyncio.timeout(wait):
            if delay:
                await asyncio.sleep(delay)
            await slots.acquire()
    except TimeoutError:
        raise error() from None
    try:
        yield
    finally:
        slots.release()


def _too_many() -> TooManyRequests:
    return TooManyRequests("too many new tokens are sent to this server at once: try again soon")


def _too_many_rights() -> TooManyRequests:
    return TooManyRequests("this caller asks for too many rights at once: try again soon")


def _too_slow() -> ClusterUnavailable:
    return ClusterUnavailable(
        "the Kubernetes API server is slow, so that the caller's rights are not known; nothing was"
        " done"
    )
