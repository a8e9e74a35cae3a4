"""The registry for tests: on a fresh database each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.adapters.sql.opening import opened_registry
from server.ports import Registry


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    """An empty registry in a file of its own."""
    async with opened_registry(f"sqlite:///{tmp_path}/registry.db") as registry:
        yield registry
