"""How one caller's writes leave the event loop to others."""

from __future__ import annotations

import asyncio
import time

# A write waits no longer than this after the one before it, however busy the loop is.
MOST_REST_SECONDS = 0.05


class WritePace:
    """Lets the writes of a caller begin one after the other.

    Each waits until the event loop has rested for as long as it has worked since the one before
    began. So a flood of writes leaves others half of the loop's time, as long as a write takes no
    more of it than half of MOST_REST_SECONDS. Most of its work follows its answer, and gRPC hands
    over no more calls than the loop can begin, so a limit of calls at once, or a second, does not
    do that. Work for other callers counts too: asyncio does not say which call a step is for.
    """

    __slots__ = ("_began", "_turns", "_worked")

    def __init__(self) -> None:
        self._turns = asyncio.Lock()
        self._began = float("-inf")
        self._worked = 0.0

    def is_due(self) -> bool:
        """Return whether a write may begin at once."""
        return not self._turns.locked() and self._rest() <= 0

    def begin(self) -> None:
        """Count the loop's work from here, where a write begins."""
        self._began, self._worked = time.monotonic(), time.thread_time()

    async def wait(self) -> None:
        """Wait until the next write may begin, and begin it. Those that wait go in order."""
        async with self._turns:
            # The loop may work on meanwhile, and asyncio has no event for an idle loop.
            while (rest := self._rest()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(rest)
            self.begin()

    def _rest(self) -> float:
        """Return for how many seconds the loop should rest, from now on."""
        passed = time.monotonic() - self._began
        worked = time.thread_time() - self._worked
        return min(2 * worked, MOST_REST_SECONDS) - passed
