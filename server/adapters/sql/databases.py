"""The two databases: how each is opened, and what differs between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from server.adapters.sql.asking import SILENCE_SECONDS, Cut
from server.adapters.sql.troubles import Lost

_READERS = 8
_CONNECTIONS = 16
_LOCK_SECONDS = 0.1
_WRONG_URL = (
    "is not of the form postgresql://user:password@host/name, or names a file that is not there"
)
_OF_A_CONNECTION = {
    "application_name": "modelservice",
    "lock_timeout": "1s",
    # A server that is frozen within a transaction keeps nobody from its rows.
    "idle_in_transaction_session_timeout": "10s",
}


class UrlInvalid(Lost):
    """The URL is not one of PostgreSQL's, or names files that are not as they should be; the
    message does not show it. After the start it is as any loss: what it names may come back."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database's connections. `reading` and `writing` are the turns at them: one by one they are
    taken in order, and a caller that waits for its turn can be told that there is none. `cut` ends
    a connection that is silent."""

    readers: AsyncEngine
    writers: AsyncEngine
    reading: asyncio.Semaphore
    writing: asyncio.Semaphore
    cut: Cut


@asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Database]:
    """The database in a file, made with the first that is written."""
    readers = _sqlite_engine(path, "BEGIN", _READERS)
    # SQLite has one writer: those of this process wait here in order, not by polling its lock.
    writers = _sqlite_engine(path, "BEGIN IMMEDIATE", 1)
    try:
        yield Database(
            readers,
            writers,
            asyncio.Semaphore(_READERS),
            asyncio.Semaphore(1),
            lambda connection: None,
        )
    finally:
        await readers.dispose()
        await writers.dispose()


@asynccontextmanager
async def postgresql(url: str) -> AsyncIterator[Database]:
    """The database that a libpq URL names."""

    async def connect() -> Any:
        try:
            connection = await asyncpg.connect(
                url, timeout=SILENCE_SECONDS, server_settings=_OF_A_CONNECTION
            )
        except OSError:
            # Before ValueError: a certificate that is not accepted is both.
            raise
        except ValueError:
            # The error may quote a part of the password.
            raise UrlInvalid(_WRONG_URL) from None
        except asyncpg.exceptions.InternalClientError as e:
            raise Lost("no host is there that target_session_attrs asks for") from e
        return await _answering(connection)

    writers = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=_CONNECTIONS,
        # What looks whether the database is there waits for nobody's turn.
        max_overflow=1,
        isolation_level="READ COMMITTED",
        hide_parameters=True,
    )
    readers = writers.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    turns = asyncio.Semaphore(_CONNECTIONS)
    try:
        yield Database(readers, writers, turns, turns, asyncpg.Connection.terminate)
    finally:
        await writers.dispose()


async def _answering(connection: Any) -> Any:
    """The connection, which answers: what SQLAlchemy asks on a new one has no bound."""
    try:
        await connection.execute("SELECT 1", timeout=SILENCE_SECONDS)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _sqlite_engine(path: Path, begin: str, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        # The driver's own way of beginning begins too late.
        connect_args={"timeout": _LOCK_SECONDS, "isolation_level": None},
        pool_size=connections,
        max_overflow=1,
        hide_parameters=True,
    )

    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine.sync_engine, "connect", prepare)
    event.listen(engine.sync_engine, "begin", begun)
    return engine
