"""The registry on SQLite passes the suite."""

from __future__ import annotations

import pytest

from tests.contracts.opened_registries import other, registry
from tests.contracts.registry_listing import ListingConformance
from tests.contracts.registry_storing import StoringConformance
from tests.contracts.registry_transactions import LeaseConformance, TransactionConformance

__all__ = ["other", "registry"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.db"


class TestSQLiteRegistry(
    StoringConformance, ListingConformance, TransactionConformance, LeaseConformance
):
    """The whole suite."""
