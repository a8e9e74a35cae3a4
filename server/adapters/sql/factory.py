"""Open the registry in a file, or of a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from server.adapters.sql import schema_upgrade
from server.adapters.sql.database_errors import Lost, Refused
from server.adapters.sql.database_health import DatabaseHealth
from server.adapters.sql.database_url import UrlInvalid
from server.adapters.sql.engines import Database, postgresql, sqlite
from server.adapters.sql.schema import SCHEMA, OtherSchema
from server.adapters.sql.sql_registry import SqlRegistry, patiently
from server.adapters.sql.transaction import SILENCE_SECONDS, transaction
from server.domain.registry.registry_errors import RegistryUnavailable

__all__ = ["RegistryUnusable", "UrlInvalid", "migrate", "opened_registry"]

_SQLITE = "sqlite:///"
# With a slow link or many rows a migration takes far longer than a statement may.
_MIGRATION_SECONDS = 600.0
_START_SECONDS = 2 * SILENCE_SECONDS


class RegistryUnusable(Exception):
    """The database is unusable; the message is for operators."""


@asynccontextmanager
async def opened_registry(place: str) -> AsyncIterator[SqlRegistry]:
    """Open the registry for the block, and watch its health.

    A file is migrated first. Raises UrlInvalid, and RegistryUnusable for an unusable file or
    another schema. A server that does not answer is no error: calls fail with RegistryUnavailable
    until it does.
    """
    if place.startswith(_SQLITE):
        await migrate(place)
    async with _database(place) as database:
        health = DatabaseHealth(database)
        following = asyncio.create_task(health.follow(), name="registry's health")
        try:
            # A URL can allow each of its hosts a minute.
            await health.first_check(_START_SECONDS)
            match health.unusable:
                case UrlInvalid() as invalid:
                    raise invalid
                case OtherSchema() as other:
                    raise RegistryUnusable(str(other)) from other
            yield SqlRegistry(database, health)
        finally:
            health.end()
            await following


async def migrate(place: str) -> str:
    """Migrate the database to this server's schema, and return its number. Raises UrlInvalid or
    RegistryUnusable."""
    async with _database(place) as database:
        try:
            await patiently(partial(_in_transaction, database, schema_upgrade.migrate))
        except OtherSchema as e:
            raise RegistryUnusable(str(e)) from e
        except UrlInvalid:
            raise
        except Refused as e:
            raise RegistryUnusable(f"the registry's database refuses this server: {e}") from e
        except Lost as e:
            raise RegistryUnusable(f"the registry's database cannot be used: {e}") from e
        except RegistryUnavailable as e:
            raise RegistryUnusable(e.message) from e
    return SCHEMA


async def _in_transaction(database: Database, work: Callable[[Connection], None]) -> None:
    async with transaction(database.writers, database.cut) as statements:
        await statements.sync(work, _MIGRATION_SECONDS)
        await statements.commit()


def _database(place: str) -> AbstractAsyncContextManager[Database]:
    if not place.startswith(_SQLITE):
        return postgresql(place)
    path = Path(place.removeprefix(_SQLITE))
    with suppress(OSError):
        # Opening it reports any problem.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    return sqlite(path)
