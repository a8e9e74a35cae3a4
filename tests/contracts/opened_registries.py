"""Two replicas' registries on the database at a module's `url`, for those that import them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from server.adapters.sql import sql_registry
from server.adapters.sql.factory import opened_registry
from server.ports import Registry
from tests.patience import PATIENCE_SECONDS


@pytest_asyncio.fixture(scope="module")
async def registry(url: str) -> AsyncIterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        # Writers that wait for each other on a slow machine are not taken for a lock that stays.
        patch.setattr(sql_registry, "RETRY_SECONDS", PATIENCE_SECONDS)
        async with opened_registry(url) as registry:
            yield registry


@pytest_asyncio.fixture(scope="module")
async def other(url: str) -> AsyncIterator[Registry]:
    async with opened_registry(url) as other:
        yield other
