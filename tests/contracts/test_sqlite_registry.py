"""The registry on SQLite passes the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from server.adapters.sql.opening import opened_registry
from server.ports import Registry
from tests.contracts.registry_listing import ListingConformance
from tests.contracts.registry_storing import StoringConformance
from tests.contracts.registry_transactions import LeaseConformance, TransactionConformance


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.db"


@pytest_asyncio.fixture(scope="module")
async def registry(url: str) -> AsyncIterator[Registry]:
    async with opened_registry(url) as registry:
        yield registry


@pytest_asyncio.fixture(scope="module")
async def other(url: str) -> AsyncIterator[Registry]:
    async with opened_registry(url) as other:
        yield other


class TestSQLiteRegistry(
    StoringConformance, ListingConformance, TransactionConformance, LeaseConformance
):
    """The whole suite."""
