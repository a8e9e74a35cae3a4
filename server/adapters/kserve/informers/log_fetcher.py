"""Fetching the logs that explain failures, a few at a time, beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.failure_log import LogRequest, fetch_log
from server.domain.service.inference_service import ServiceKey

log = structlog.get_logger(__name__)


class LogFetching:
    """A queue of wanted logs, one a service: what it wants now takes the place of what it wanted
    before. Each `run` works it off, one log at a time."""

    def __init__(
        self, api: ApiServer, fetched: Callable[[ServiceKey, LogRequest, LogExcerpt], None]
    ) -> None:
        self._api = api
        self._fetched = fetched
        self._waiting: dict[ServiceKey, LogRequest] = {}
        self._queue: asyncio.Queue[ServiceKey] = asyncio.Queue()  # the keys of those that wait
        self._under_way: set[LogRequest] = set()

    def want(self, key: ServiceKey, wanted: LogRequest) -> None:
        """Have a log fetched, unless that is under way already."""
        if wanted in self._under_way:
            return
        if key not in self._waiting:
            self._queue.put_nowait(key)
        self._waiting[key] = wanted

    async def run(self) -> None:
        """Fetch until cancelled; a log that could not be had is dropped until it is wanted anew."""
        while True:
            key = await self._queue.get()
            wanted = self._waiting.pop(key)
            self._under_way.add(wanted)
            try:
                self._fetched(key, wanted, await fetch_log(self._api, wanted))
            except (Unreachable, Unanswered):
                log.info("a log could not be fetched", service=str(key), pod=wanted.pod)
            # A log is an extra: what goes wrong with one must not stop the feed.
            except Exception:
                log.exception("a log could not be read", service=str(key), pod=wanted.pod)
            finally:
                self._under_way.discard(wanted)
