"""The registry that control works on: a real one, of one SQLite file for all these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from server.adapters.sql.opening import opened_registry
from server.ports import Registry
from tests.control.registered import Registering


@pytest_asyncio.fixture(scope="session")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Registry]:
    path = tmp_path_factory.mktemp("registry") / "registry.db"
    async with opened_registry(f"sqlite:///{path}") as opened:
        yield opened


@pytest.fixture
def registering(registry: Registry) -> Registering:
    """The registry's four parts, in a project of the test's own."""
    return Registering(registry)
