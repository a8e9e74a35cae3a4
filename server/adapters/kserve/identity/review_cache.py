"""Results of reviews by key, for as long as they may be relied on."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from server.domain.errors import ClusterUnavailable, ServerLacksRights

ALLOWED_SECONDS = 60.0
DENIED_SECONDS = 10.0
# All streams of a caller share the review that one of them has caused.
FRESH_SECONDS = 5.0
# While the API server does not answer, it is asked again so often for each key.
RETRY_SECONDS = 5.0

_ANY_NUMBER = nullcontext()
# An API server that has just started may refuse this server's own account for a moment.
_NO_ANSWER = (ClusterUnavailable, ServerLacksRights)

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass(slots=True)
class _Entry(Generic[Result]):
    result: Result
    reviewed: float
    # When the last review failed, since the API server did not answer.
    failed: float | None = None


class ReviewCache(Generic[Key, Result]):
    """Keeps what reviews returned: `most` results that allow, and as many that deny.

    A result allows if it is true. It is used for 60 s, or 10 s if it denies, or 5 s if a fresh one
    is asked for. At most one review runs for each key. While the API server does not answer, a
    result that allows is used for `outage`, and asked for again in the background.
    """

    def __init__(
        self, outage: timedelta, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._outage = outage.total_seconds()
        self._most = most
        # Apart, so that no flood of what is denied displaces what is allowed.
        self._allowed: OrderedDict[Key, _Entry[Result]] = OrderedDict()
        self._denied: OrderedDict[Key, _Entry[Result]] = OrderedDict()
        self._running: dict[Key, asyncio.Task[Result]] = {}

    def knows(self, key: Key) -> bool:
        """Report whether the last review of a key allowed, however long ago."""
        return key in self._allowed

    def recent(self, key: Key) -> Result | None:
        """Return a result that allows and may be used without a review; None where there is none.

        It costs a fraction of `get`, and nearly all calls have one.
        """
        entry = self._allowed.get(key)
        if entry is None or self._clock() - entry.reviewed > ALLOWED_SECONDS:
            return None
        self._allowed.move_to_end(key)
        return entry.result

    def forget(self, key: Key) -> None:
        """Drop a result."""
        self._allowed.pop(key, None)
        self._denied.pop(key, None)

    async def get(
        self,
        key: Key,
        review: Callable[[], Awaitable[Result]],
        *,
        fresh: bool = False,
        waiting: AbstractContextManager[None] = _ANY_NUMBER,
    ) -> Result:
        """Return a result, of a new review if there is none that may be used.

        `waiting` is entered only to wait for a review. Raises its errors and those of `review`;
        ClusterUnavailable and ServerLacksRights only where no result may be used instead.
        """
        now = self._clock()
        if entry := self._allowed.get(key):
            age = now - entry.reviewed
            if age <= (FRESH_SECONDS if fresh else ALLOWED_SECONDS):
                self._allowed.move_to_end(key)
                return entry.result
            if entry.failed is not None and age <= self._outage:
                if now - entry.failed > RETRY_SECONDS:
                    self._start(key, review)
                return entry.result
        else:
            denied = self._denied.get(key)
            lasts = FRESH_SECONDS if fresh else DENIED_SECONDS
            if denied and now - denied.reviewed <= lasts:
                return denied.result
        try:
            # One caller that leaves does not end the review of the others.
            with waiting:
                return await asyncio.shield(self._start(key, review))
        except _NO_ANSWER:
            entry = self._allowed.get(key)
            if entry and self._clock() - entry.reviewed <= self._outage:
                return entry.result
            raise

    def _start(self, key: Key, review: Callable[[], Awaitable[Result]]) -> asyncio.Task[Result]:
        running = self._running.get(key)
        if running is None:
            running = asyncio.create_task(self._review(key, review), name="review")
            running.add_done_callback(_retrieve_error)
            self._running[key] = running
        return running

    async def _review(self, key: Key, review: Callable[[], Awaitable[Result]]) -> Result:
        try:
            result = await review()
        except _NO_ANSWER:
            if entry := self._allowed.get(key):
                entry.failed = self._clock()
            raise
        finally:
            del self._running[key]
        self.forget(key)
        kept = self._allowed if result else self._denied
        kept[key] = _Entry(result, self._clock())
        if len(kept) > self._most:
            kept.popitem(last=False)
        return result


def _retrieve_error(task: asyncio.Task[Result]) -> None:
    """Retrieve the error of a review whose callers have left, which asyncio would log."""
    if not task.cancelled():
        task.exception()
