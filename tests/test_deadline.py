"""Deadlines, and that the event loop's clock is theirs."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from server.deadline import NEVER, Deadline


@pytest.mark.parametrize("time_left", [60, 60.0, timedelta(minutes=1)])
def test_a_deadline_is_made_of_a_time(time_left: timedelta | float) -> None:
    deadline = Deadline.after(time_left)
    assert 59 < deadline.left() <= 60
    assert not deadline.expired


@pytest.mark.parametrize("time_left", [0, -1.5])
def test_one_that_has_passed_has_nothing_left(time_left: float) -> None:
    deadline = Deadline.after(time_left)
    assert deadline.expired
    assert deadline.left() == 0
    assert deadline.left(least=0.2) == 0.2


def test_a_call_without_a_deadline_never_expires() -> None:
    assert Deadline.after(None) is NEVER
    assert not NEVER.expired
    assert NEVER.left() == float("inf")


def test_the_sooner_of_two_is_kept() -> None:
    soon, late = Deadline.after(1), Deadline.after(2)
    assert soon.sooner(late) is late.sooner(soon) is soon.sooner(NEVER) is soon


async def test_the_event_loop_times_out_at_it() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(Deadline.after(0.01).at):
            await asyncio.Event().wait()
    async with asyncio.timeout_at(NEVER.at):
        await asyncio.sleep(0)
