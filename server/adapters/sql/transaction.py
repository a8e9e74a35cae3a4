"""Run statements in a transaction, with a bound on the database's silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from server.adapters.sql.database_errors import translated

Cut = Callable[[Any], None]
Result = TypeVar("Result")

SILENCE_SECONDS = 2.0


class Statements:
    """The statements of one transaction.

    A connection without an answer for SILENCE_SECONDS is cut, and then fails like any lost one.
    Cancelling the statement instead would make the driver ask the database, and wait for it.
    """

    def __init__(self, engine: AsyncEngine, cut: Cut) -> None:
        self.dialect = engine.dialect.name
        self._connection = engine.connect()
        self._driver: Any = None
        self._cut = cut

    async def start(self) -> None:
        """Take a connection from the pool; a new one has its own bound."""
        await _to_its_end(self._connection.start())
        self._driver = (await self._connection.get_raw_connection()).driver_connection

    async def end(self) -> None:
        """Roll back uncommitted statements, and return the connection to the pool."""
        if self._connection.sync_connection:
            await self._bounded(self._connection.close())

    async def run(self, statement: Any) -> Any:
        """Run a statement, and return its result. Raises Conflict, Lost or RegistryUnavailable."""
        return await self._bounded(self._connection.execute(statement))

    async def sync(self, work: Callable[[Connection], None], seconds: float | None = None) -> None:
        """Run several statements within one bound, SILENCE_SECONDS or `seconds`."""
        await self._bounded(self._connection.run_sync(work), seconds)

    async def commit(self) -> None:
        """Commit. Raises like `run`; after Lost the transaction may or may not be stored."""
        await self._bounded(self._connection.commit())

    async def _bounded(
        self, statement: Coroutine[Any, Any, Result], seconds: float | None = None
    ) -> Result:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds or SILENCE_SECONDS, self._cut_off)
        try:
            with translated():
                return await _to_its_end(statement)
        finally:
            timer.cancel()

    def _cut_off(self) -> None:
        if self._driver is not None:
            self._cut(self._driver)


@asynccontextmanager
async def transaction(engine: AsyncEngine, cut: Cut) -> AsyncIterator[Statements]:
    """Open a transaction for the block; it is rolled back unless it was committed."""
    statements = Statements(engine, cut)
    with translated():
        try:
            await statements.start()
            yield statements
        finally:
            await statements.end()


async def _to_its_end(statement: Coroutine[Any, Any, Result]) -> Result:
    """Return the result; a cancelled caller still waits for it.

    SQLite's thread runs an abandoned statement nevertheless, after its connection is back in the
    pool: a lock that it takes then is never released.
    """
    task = asyncio.create_task(statement)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled:
        # The caller is gone: mark the exception as retrieved.
        task.exception()
        raise cancelled
    return task.result()
