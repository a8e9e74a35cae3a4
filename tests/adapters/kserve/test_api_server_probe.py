"""Whether the API server answers, and what its clock says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.api_server_probe import ApiServerProbe
from tests.adapters.kserve.scripted_server import Fault, ScriptedServer, html_500, never
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

# Ten times the aim: two probes that fail, half a second apart, 1.5 s each.


class Probing:
    def __init__(self, api: ApiServer) -> None:
        self.asked_at: list[float] = []
        self.returns = 0
        self.probe = ApiServerProbe(api, answered=self.asked_at.append, returned=self._note_return)

    def _note_return(self) -> None:
        self.returns += 1


@pytest.fixture
async def probing(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Probing]:
    monkeypatch.setattr("server.adapters.kserve.informers.api_server_probe.PROBE_EVERY", 0.1)
    monkeypatch.setattr("server.adapters.kserve.informers.api_server_probe.PROBE_AGAIN_AFTER", 0.1)
    probing = Probing(api)
    running = asyncio.create_task(probing.probe.run())
    yield probing
    running.cancel()
    await asyncio.wait([running])


def dated(date: str) -> Fault:
    async def fault(_: ScriptedServer, __: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Date": date})

    return fault


async def test_it_is_reachable_once_it_has_answered(probing: Probing) -> None:
    assert not probing.probe.reachable
    await eventually(lambda: probing.probe.reachable, PATIENCE_SECONDS)
    assert (len(probing.asked_at), probing.returns) == (1, 0)


@pytest.mark.parametrize("fault", [html_500, never])
async def test_it_is_away_while_it_does_not_answer_and_its_return_is_told(
    server: ScriptedServer, probing: Probing, fault: Fault
) -> None:
    await eventually(lambda: probing.probe.reachable, PATIENCE_SECONDS)
    server.probe_fault = fault
    await eventually(lambda: not probing.probe.reachable, PATIENCE_SECONDS)
    answered = len(probing.asked_at)

    server.probe_fault = None
    await eventually(lambda: probing.probe.reachable, PATIENCE_SECONDS)
    assert probing.returns == 1
    assert len(probing.asked_at) > answered


async def test_refused_connections_are_away_too(server: ScriptedServer, probing: Probing) -> None:
    await eventually(lambda: probing.probe.reachable, PATIENCE_SECONDS)
    await server.stop()
    await eventually(lambda: not probing.probe.reachable, PATIENCE_SECONDS)
    await server.start()
    await eventually(lambda: probing.probe.reachable, PATIENCE_SECONDS)


async def test_who_asked_to_know_hears_of_each_turn_once(
    server: ScriptedServer, probing: Probing
) -> None:
    heard: asyncio.Queue[bool] = asyncio.Queue()
    probing.probe.reachability.add(lambda: heard.put_nowait(probing.probe.reachable))
    for fault, reachable in ((None, True), (html_500, False), (None, True)):
        server.probe_fault = fault
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await heard.get() is reachable
    answered = len(probing.asked_at)
    await eventually(lambda: len(probing.asked_at) > answered + 2, PATIENCE_SECONDS)
    assert heard.empty()


async def test_one_failure_is_not_an_outage(server: ScriptedServer, probing: Probing) -> None:
    await eventually(lambda: probing.probe.reachable, PATIENCE_SECONDS)
    failed = asyncio.Event()

    async def fail_once(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        server.probe_fault = None
        failed.set()
        return await html_500(server, request)

    answered = len(probing.asked_at)
    server.probe_fault = fail_once
    await failed.wait()
    await eventually(lambda: len(probing.asked_at) > answered + 1, PATIENCE_SECONDS)
    assert probing.returns == 0


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_is_an_hour_off_is_put_right(
    server: ScriptedServer, probing: Probing, hours: int
) -> None:
    ahead = timedelta(hours=hours)
    server.probe_fault = dated(format_datetime(datetime.now(UTC) + ahead, usegmt=True))
    await eventually(
        lambda: abs(probing.probe.now() - datetime.now(UTC) - ahead) < timedelta(seconds=30),
        PATIENCE_SECONDS,
    )


@pytest.mark.parametrize("date", ["", "yesterday"])
async def test_without_a_usable_date_the_own_clock_counts(
    server: ScriptedServer, probing: Probing, date: str
) -> None:
    server.probe_fault = dated(date)
    await eventually(lambda: len(probing.asked_at) >= 2, PATIENCE_SECONDS)
    assert abs(probing.probe.now() - datetime.now(UTC)) < timedelta(seconds=1)
