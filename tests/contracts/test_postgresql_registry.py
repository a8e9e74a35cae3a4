"""The registry on PostgreSQL passes the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from server.adapters.sql import engines, transaction
from server.adapters.sql.factory import migrate
from tests.contracts.opened_registries import other, registry
from tests.contracts.registry_listing import ListingConformance
from tests.contracts.registry_storing import StoringConformance
from tests.contracts.registry_transactions import LeaseConformance, TransactionConformance
from tests.postgresql import fresh_database

__all__ = ["other", "registry"]


@pytest_asyncio.fixture(scope="module")
async def url(postgresql_server_url: str) -> AsyncIterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # A slow machine is not taken for a database that is away.
        for module in (transaction, engines):
            patch.setattr(module, "SILENCE_SECONDS", 60.0)
        async with fresh_database(postgresql_server_url) as url:
            await migrate(url)
            yield url


class TestPostgreSQLRegistry(
    StoringConformance, ListingConformance, TransactionConformance, LeaseConformance
):
    """The whole suite."""
