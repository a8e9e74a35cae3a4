"""Fetch the container logs that explain failures, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.failure_log import LogRequest, fetch_log
from server.domain.service.inference_service import ServiceKey

log = structlog.get_logger(__name__)


class LogFetcher:
    """Queue one log request for each service; a new request replaces a waiting one.

    Each `run` works on the queue, one log at a time. `fetched` gets each log.
    """

    def __init__(
        self, api: ApiServer, fetched: Callable[[ServiceKey, LogRequest, LogExcerpt], None]
    ) -> None:
        self._api = api
        self._fetched = fetched
        self._waiting: dict[ServiceKey, LogRequest] = {}
        self._queue: asyncio.Queue[ServiceKey] = asyncio.Queue()  # the keys of `_waiting`
        self._under_way: set[LogRequest] = set()

    def want(self, key: ServiceKey, wanted: LogRequest) -> None:
        """Request a log, unless it is being fetched already."""
        if wanted in self._under_way:
            return
        if key not in self._waiting:
            self._queue.put_nowait(key)
        self._waiting[key] = wanted

    async def run(self) -> None:
        """Fetch logs until cancelled. A log that cannot be fetched is dropped until it is requested
        again."""
        while True:
            key = await self._queue.get()
            wanted = self._waiting.pop(key)
            self._under_way.add(wanted)
            try:
                self._fetched(key, wanted, await fetch_log(self._api, wanted))
            except (Unreachable, Unanswered):
                log.info("a log could not be fetched", service=str(key), pod=wanted.pod)
            # A status is complete without the log: an error in one must not stop the feed.
            except Exception:
                log.exception("a log could not be read", service=str(key), pod=wanted.pod)
            finally:
                self._under_way.discard(wanted)
