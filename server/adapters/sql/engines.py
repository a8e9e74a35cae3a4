"""The engines of the two databases, SQLite and PostgreSQL, and their differences."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from server.adapters.sql import database_url
from server.adapters.sql.database_errors import Lost, Refused, refusal, tls_refusal
from server.adapters.sql.database_url import DatabaseUrl
from server.adapters.sql.transaction import SILENCE_SECONDS, Cut

_READERS = 8
_CONNECTIONS = 16
_LOCK_SECONDS = 0.1
# The driver's messages if a server offers no TLS, and if the login fails in the driver.
_NO_TLS = "rejected SSL upgrade"
_NO_LOGIN = "error while performing authentication"
_UNUSABLE = (
    "it asks for an authentication method that this server does not have, or the URL's user or"
    " password cannot be sent"
)
_SOCKET_OPTIONS = {
    "keepalives_idle": socket.TCP_KEEPIDLE,
    "keepalives_interval": socket.TCP_KEEPINTVL,
    "keepalives_count": socket.TCP_KEEPCNT,
    "tcp_user_timeout": socket.TCP_USER_TIMEOUT,
}
_OF_A_CONNECTION = {
    "lock_timeout": "1s",
    # A server that freezes within a transaction does not hold its row locks for ever.
    "idle_in_transaction_session_timeout": "10s",
}


@dataclass(frozen=True, slots=True)
class Database:
    """A database's connections. Callers take `reading` or `writing` first, in order, so that
    waiting callers can be refused once the database is away. `cut` ends a silent connection."""

    readers: AsyncEngine
    writers: AsyncEngine
    reading: asyncio.Semaphore
    writing: asyncio.Semaphore
    cut: Cut


@asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Database]:
    """Open the database in a file, which the first write creates."""
    readers = _sqlite_engine(path, "BEGIN", _READERS)
    # SQLite has one writer: the writers of this process queue here, instead of polling its lock.
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
    """Open the database of a libpq URL. Raises UrlInvalid."""

    target = database_url.parse(url)

    async def connect() -> Any:
        return await _answering(await _connected(target))

    writers = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=_CONNECTIONS,
        # The health check does not wait for a connection.
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


async def _connected(target: DatabaseUrl) -> Any:
    """Connect to the first host that fits the URL. Like libpq, try the next host after one that
    does not answer, and none after one that refuses."""
    hosts = list(target.hosts)
    if target.shuffled:
        random.shuffle(hosts)
    sessions = ("standby", "any") if target.session == "prefer-standby" else (target.session,)
    last: Lost | OSError | None = None
    for session in sessions:
        for host in hosts:
            try:
                return await _connected_to(host, session, target)
            except Refused:
                raise
            except (Lost, OSError) as e:
                last = e
    assert last, "there is always a host"
    raise last


async def _connected_to(host: tuple[str | None, int], session: str, target: DatabaseUrl) -> Any:
    arguments = target.arguments()
    settings = arguments.pop("server_settings") | _OF_A_CONNECTION
    wanted = target.number("connect_timeout") or 0
    try:
        connection = await asyncpg.connect(
            host=host[0],
            port=host[1],
            timeout=wanted if wanted > 0 else SILENCE_SECONDS,
            target_session_attrs=session,
            server_settings=settings,
            **arguments,
        )
    except asyncpg.exceptions.PostgresError as e:
        raise refusal(getattr(e, "sqlstate", ""), str(e.args[0])) from e
    except ssl.SSLError as e:
        target.check_files()
        raise tls_refusal(e) from e
    except OSError as e:
        # Before ValueError: a certificate that is not accepted is both.
        target.check_files()
        if _NO_TLS in str(e):
            raise Refused("it offers no TLS, which sslmode requires") from e
        raise
    except asyncpg.exceptions.TargetServerAttributeNotMatched as e:
        raise Lost("no host fits target_session_attrs") from e
    except asyncpg.exceptions.InternalClientError as e:
        if _NO_LOGIN in str(e):
            raise Refused(_UNUSABLE) from e
        raise Lost("the server there does not speak PostgreSQL's protocol") from e
    except (ValueError, asyncpg.exceptions.InterfaceError) as e:
        target.check_files()
        # The driver's own message may quote a part of the password.
        raise Refused(_UNUSABLE) from e
    _keep_alive(connection, target)
    return connection


def _keep_alive(connection: Any, target: DatabaseUrl) -> None:
    # The driver has no option for keepalives.
    channel = connection._transport.get_extra_info("socket")  # noqa: SLF001
    if channel is None or channel.family == socket.AF_UNIX:
        return
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, target.number("keepalives") != 0)
    for name, option in _SOCKET_OPTIONS.items():
        if value := max(target.number(name) or 0, 0):
            channel.setsockopt(socket.IPPROTO_TCP, option, value)


async def _answering(connection: Any) -> Any:
    """Check that the connection answers: SQLAlchemy's own first statements have no bound."""
    try:
        await connection.execute("SELECT 1", timeout=SILENCE_SECONDS)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _sqlite_engine(path: Path, begin: str, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        # The driver's own BEGIN comes too late.
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
