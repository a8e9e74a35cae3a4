"""What a server was told to be stored is there after its kill -9, on either database."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from server.adapters.sql.factory import opened_registry
from tests.adapters.sql.statements import healed
from tests.alone import ROOT, clean_environment
from tests.contracts.registry_things import new_project

pytestmark = pytest.mark.processes

TIMES = 3
MOST = 200


async def test_all_that_was_stored_before_a_kill_is_there_on_sqlite(sqlite_url: str) -> None:
    await _kill_and_look(sqlite_url)


async def test_all_that_was_stored_before_a_kill_is_there_on_postgresql(
    postgresql_url: str,
) -> None:
    await _kill_and_look(postgresql_url)


async def _kill_and_look(url: str) -> None:
    for _ in range(TIMES):
        project = new_project()
        told = await _added_until_killed(url, project, random.randint(1, 30))
        async with opened_registry(url) as registry:
            page = await registry.read(
                lambda reading, project=project: reading.models(project, MOST, None)
            )
            there = [item.key.name for item in page.items][::-1]
            assert there[: len(told)] == told
            # One more may have been stored and not told.
            assert len(there) <= len(told) + 1
            await healed(registry)


async def _added_until_killed(url: str, project: str, enough: int) -> list[str]:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.adapters.sql.adding_program", url, project,
        stdout=PIPE, cwd=ROOT, env=clean_environment(),
    )  # fmt: skip
    told = [await _line(program) for _ in range(enough)]
    program.kill()
    told += (await program.communicate())[0].decode().split()
    return told


async def _line(program: Any) -> str:
    line = await asyncio.wait_for(program.stdout.readline(), 60)
    assert line, "the program ended by itself"
    return line.decode().strip()
