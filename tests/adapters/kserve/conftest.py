from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.adapters.kserve.client import ApiServer
from tests.adapters.kserve.scripted_server import ScriptedServer, scripted_server


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as server:
        yield server


@pytest.fixture
async def api(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[ApiServer]:
    api = await ApiServer.connect(server.kubeconfig(tmp_path))
    yield api
    await api.close()
