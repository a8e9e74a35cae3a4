"""Logs are fetched beside the feed: each once at a time, and no failure of one stops the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from server.adapters.kserve.client import ApiServer, Unanswered
from server.adapters.kserve.informers.log_fetcher import LogFetcher
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.failure_log import LogRequest
from server.domain.service.inference_service import ServiceKey
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

IRIS = ServiceKey("team-a", "iris")
WANTED = LogRequest("pod-1", "team-a", "main", previous=True, restart_count=1)
THE_LINE = LogExcerpt(("the line",))


class Fetches:
    """Answers each fetch with the next outcome, and notes what came of it."""

    def __init__(self, *outcomes: LogExcerpt | Exception) -> None:
        self.outcomes = list(outcomes)
        self.asked = 0
        self.wanted: list[LogRequest] = []
        self.fetched: list[LogExcerpt] = []

    async def fetch(self, api: ApiServer, wanted: LogRequest) -> LogExcerpt:
        self.asked += 1
        self.wanted.append(wanted)
        await asyncio.sleep(0)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def keep(self, key: ServiceKey, wanted: LogRequest, log: LogExcerpt) -> None:
        self.fetched.append(log)


@asynccontextmanager
async def fetching(
    fetches: Fetches, api: ApiServer, patch: pytest.MonkeyPatch
) -> AsyncIterator[LogFetcher]:
    patch.setattr("server.adapters.kserve.informers.log_fetcher.fetch_log", fetches.fetch)
    logs = LogFetcher(api, fetches.keep)
    running = asyncio.create_task(logs.run())
    try:
        yield logs
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_log_wanted_twice_at_once_is_fetched_once(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches = Fetches(THE_LINE)
    async with fetching(fetches, api, monkeypatch) as logs:
        logs.want(IRIS, WANTED)
        logs.want(IRIS, WANTED)
        await eventually(lambda: fetches.fetched == [THE_LINE], PATIENCE_SECONDS)
        assert fetches.asked == 1


@pytest.mark.parametrize("failure", [Unanswered("cut"), RuntimeError("a bug")])
async def test_a_log_that_could_not_be_had_is_fetched_when_it_is_wanted_anew(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    fetches = Fetches(failure, THE_LINE)
    async with fetching(fetches, api, monkeypatch) as logs:
        logs.want(IRIS, WANTED)
        await eventually(lambda: fetches.outcomes == [THE_LINE], PATIENCE_SECONDS)
        await asyncio.sleep(0.05)
        logs.want(IRIS, WANTED)
        await eventually(lambda: fetches.fetched == [THE_LINE], PATIENCE_SECONDS)


async def test_of_one_service_only_the_log_that_it_wants_last_waits(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what crashes again and again fills the queue while its node does not answer."""
    fetches = Fetches(*[THE_LINE] * 1000)
    async with fetching(fetches, api, monkeypatch) as logs:
        for restarts in range(1000):
            logs.want(IRIS, replace(WANTED, restart_count=restarts))
        await eventually(lambda: fetches.fetched == [THE_LINE], PATIENCE_SECONDS)
        await asyncio.sleep(0.05)
    assert fetches.wanted == [replace(WANTED, restart_count=999)]
