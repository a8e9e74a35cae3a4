"""A local cluster of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.adapters.local.world import World, world_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as world:
        yield world


@pytest.fixture
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that gets no answer ends in a quarter of its time."""
    timeout = aiohttp.ClientTimeout(total=0.5)
    monkeypatch.setattr("server.adapters.local.proxy.reverse_proxy.PROBE_TIMEOUT", timeout)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session
