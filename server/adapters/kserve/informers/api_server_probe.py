"""Ask the API server every 2 s whether it accepts our requests, and read its clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import structlog

from server.adapters.kserve.client import Answer, ApiServer, NoCredentials, Unanswered, Unreachable
from server.domain.listeners import Listeners

PROBE_EVERY = 2.0
# After a failure, to notice soon when the API server answers again.
PROBE_AGAIN_AFTER = 0.5
PROBE_TIMEOUT = 1.5
# One failure may be a hiccup.
AWAY_AFTER = 2
# The Date header has whole seconds, so a smaller difference means nothing.
SMALLEST_OFFSET = timedelta(seconds=2)

log = structlog.get_logger(__name__)

_SILENT = "the API server does not answer"


class ApiServerProbe:
    """Probe the API server.

    `reachable`: it answers, and accepts our credentials. It is False before the first answer, and
    after two failures in a row; `away` is then the last failure. `reachability` has the listeners
    to its changes. `met` is set by the first answer.
    """

    def __init__(
        self,
        api: ApiServer,
        *,
        answered: Callable[[float], None],
        returned: Callable[[], None],
    ) -> None:
        """`answered` is called for each answer with the monotonic time of its request, `returned`
        for the first answer after an outage."""
        self.reachable = False
        self.away: Unreachable | Unanswered | None = None
        self.reachability = Listeners()
        self.met = asyncio.Event()
        self._api = api
        self._answered = answered
        self._returned = returned
        self._failures = 0
        self._trouble = ""
        self._offset = timedelta(0)

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            asked_at = time.monotonic()
            try:
                answer = await self._ask()
            except (Unreachable, Unanswered) as e:
                self._note_failure(e)
            else:
                self._note_answer(asked_at, answer.headers)
            await asyncio.sleep(PROBE_AGAIN_AFTER if self._failures else PROBE_EVERY)

    def now(self) -> datetime:
        """Return the time by the API server's clock, by which its objects are stamped."""
        return datetime.now(UTC) + self._offset

    async def _ask(self) -> Answer:
        """Return the answer. Raises Unreachable, Unanswered."""
        answer = await self._api.send("GET", "/readyz", timeout=PROBE_TIMEOUT)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unanswered(f"HTTP {answer.status}")
        return answer

    def _note_failure(self, cause: Unreachable | Unanswered) -> None:
        self._failures += 1
        if self._failures < AWAY_AFTER:
            return
        self._turn(cause)
        silent = not isinstance(cause, NoCredentials)
        trouble = _SILENT if silent else str(cause)
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning(trouble, **({"why": str(cause)} if silent else {}))

    def _turn(self, away: Unreachable | Unanswered | None) -> None:
        was_reachable, self.reachable, self.away = self.reachable, away is None, away
        if self.reachable is not was_reachable:
            self.reachability.notify()

    def _note_answer(self, asked_at: float, headers: Mapping[str, str]) -> None:
        was_away, self._failures, self._trouble = self._failures >= AWAY_AFTER, 0, ""
        self._turn(None)
        self.met.set()
        self._offset = _offset(headers.get("Date", ""))
        self._answered(asked_at)
        if was_away:
            log.info("the API server answers again")
            self._returned()


def _offset(date: str) -> timedelta:
    try:
        offset = parsedate_to_datetime(date) - datetime.now(UTC)
    except ValueError:
        return timedelta(0)
    return offset if abs(offset) > SMALLEST_OFFSET else timedelta(0)
