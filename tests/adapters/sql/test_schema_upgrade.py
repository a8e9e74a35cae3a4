"""A database of any earlier release is brought to this one, with all that is in it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select

from server.adapters.sql import schema, schema_upgrade, tables
from server.adapters.sql.engines import postgresql, sqlite
from server.adapters.sql.factory import RegistryUnusable, migrate, opened_registry
from server.adapters.sql.transaction import SILENCE_SECONDS, Statements, transaction
from server.domain.registry.deployment import DeploymentFilter
from server.ports import Registry, RegistryReading
from tests.adapters.sql import released_rows as rows
from tests.adapters.sql.statements import healed
from tests.postgresql import fresh_database

RELEASED = Path(__file__).with_name("released")
MIGRATIONS = Path(schema.__file__).with_name("migrations") / "versions"
SCHEMAS = sorted(path.name.partition("_")[0] for path in MIGRATIONS.glob("*.py"))


@pytest.mark.parametrize("released", SCHEMAS)
async def test_a_sqlite_file_of_a_release_is_migrated_at_the_start_with_its_rows(
    released: str, tmp_path: Path
) -> None:
    file = tmp_path / "registry.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((RELEASED / f"{released}.sqlite.sql").read_text())
    async with opened_registry(f"sqlite:///{file}") as registry:
        await _has_all(registry)


@pytest.mark.parametrize("released", SCHEMAS)
async def test_a_postgresql_of_a_release_is_migrated_by_the_command_with_its_rows(
    released: str, postgresql_server_url: str
) -> None:
    async with fresh_database(postgresql_server_url) as url:
        connection = await asyncpg.connect(url)
        await connection.execute((RELEASED / f"{released}.postgresql.sql").read_text())
        await connection.close()
        assert await migrate(url) == schema.SCHEMA
        async with opened_registry(url) as registry:
            await _has_all(registry)


async def test_migrating_twice_changes_nothing(postgresql_url: str) -> None:
    async with opened_registry(postgresql_url) as registry:
        await healed(registry)
        assert await migrate(postgresql_url) == schema.SCHEMA
        await healed(registry)


async def test_a_migration_may_take_longer_than_a_statement(
    postgresql_server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = schema_upgrade.migrate

    def slow(connection: Connection) -> None:
        connection.execute(select(func.pg_sleep(SILENCE_SECONDS + 0.5)))
        whole(connection)

    monkeypatch.setattr(schema_upgrade, "migrate", slow)
    async with fresh_database(postgresql_server_url) as url:
        assert await migrate(url) == schema.SCHEMA


async def test_a_sqlite_file_that_is_locked_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(migrate(f"sqlite:///{file}"))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        other.execute("ROLLBACK")
        assert await waiting == schema.SCHEMA


async def test_a_database_of_a_later_release_is_left_as_it_is(
    postgresql_url: str, sqlite_url: str
) -> None:
    for url in (postgresql_url, sqlite_url):
        await migrate(url)
        async with _transaction(url) as statements:
            await statements.run(schema._VERSION.update().values(version_num="9999"))
            await statements.commit()
        with pytest.raises(RegistryUnusable, match="schema 9999 of a later release"):
            await migrate(url)


async def test_migrations_lead_to_the_tables_that_are_worked_with(
    postgresql_url: str, sqlite_url: str
) -> None:
    await migrate(sqlite_url)
    for url in (postgresql_url, sqlite_url):
        async with _transaction(url) as statements:
            await statements.sync(_assert_no_difference, seconds=60)


def test_the_servers_schema_is_the_newest_migrations() -> None:
    assert SCHEMAS[-1] == schema.SCHEMA


def _assert_no_difference(connection: Connection) -> None:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    assert compare_metadata(context, tables.METADATA) == []


@asynccontextmanager
async def _transaction(url: str) -> AsyncIterator[Statements]:
    path = url.removeprefix("sqlite:///")
    async with (
        postgresql(url) if path == url else sqlite(Path(path)) as database,
        transaction(database.writers, database.cut) as statements,
    ):
        yield statements


async def _has_all(registry: Registry) -> None:
    async def read(reading: RegistryReading) -> list[Any]:
        return [
            await reading.model(rows.MODEL.key),
            await reading.version(rows.FILES.key),
            await reading.version(rows.IMAGE.key),
            await reading.environment(rows.ENVIRONMENT.key),
            *[await reading.deployment(f"deployment-{number}") for number in (1, 2, 3)],
        ]

    assert await registry.read(read) == list(rows.THINGS)
    wanted = DeploymentFilter("risk", environment="staging")
    page = await registry.read(lambda reading: reading.deployments(wanted, 10, None))
    assert {each.id for each in page.items} == {"deployment-1", "deployment-2", "deployment-3"}
    assert await registry.read(lambda reading: reading.open_deployments()) == [rows.OPEN]
    await healed(registry)
