"""Registries for tests, each on a fresh database."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.adapters.sql.factory import migrate, opened_registry
from server.ports import Registry
from tests import postgresql


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests on PostgreSQL, which is a process of its own."""
    for item in items:
        if "postgresql_server_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.processes)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"sqlite:///{tmp_path}/registry.db"


@pytest.fixture(scope="session")
def postgresql_server_url() -> Iterator[str]:
    """A PostgreSQL for as many databases as tests want; left out where there can be none."""
    if postgresql.OTHER_SERVER:
        yield postgresql.OTHER_SERVER
        return
    leave_out_without_postgresql()
    with postgresql.started_postgresql() as server:
        yield server.url


@pytest.fixture
async def postgresql_url(postgresql_server_url: str) -> AsyncIterator[str]:
    """A migrated database without any rows."""
    async with postgresql.fresh_database(postgresql_server_url) as url:
        await migrate(url)
        yield url


@pytest.fixture(scope="session")
async def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema and without any rows."""
    file = tmp_path_factory.mktemp("migrated") / "registry.db"
    await migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
async def registry(sqlite_url: str, migrated_file: Path) -> AsyncIterator[Registry]:
    """An empty registry in a file of its own."""
    shutil.copy(migrated_file, sqlite_url.removeprefix("sqlite:///"))
    async with opened_registry(sqlite_url) as registry:
        yield registry


def leave_out_without_postgresql() -> None:
    """Leave the test out where tests cannot start a PostgreSQL; in CI that is an error."""
    if why := postgresql.why_there_is_none():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
