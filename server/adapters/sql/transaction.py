"""Asking a database within a transaction, and not for longer than it is there."""

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

    A connection on which nothing comes for SILENCE_SECONDS is cut: it then ends as any that is
    lost. Cancelling instead would have the driver tell the database so, and wait for it.
    """

    def __init__(self, engine: AsyncEngine, cut: Cut) -> None:
        self.dialect = engine.dialect.name
        self._connection = engine.connect()
        self._driver: Any = None
        self._cut = cut

    async def start(self) -> None:
        """Take a connection, which has its own bound where it is a new one."""
        await _to_its_end(self._connection.start())
        self._driver = (await self._connection.get_raw_connection()).driver_connection

    async def end(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        if self._connection.sync_connection:
            await self._bounded(self._connection.close())

    async def run(self, statement: Any) -> Any:
        """Its result. Raises InTheWay, Lost or RegistryUnavailable."""
        return await self._bounded(self._connection.execute(statement))

    async def sync(self, work: Callable[[Connection], None], seconds: float | None = None) -> None:
        """Do work of several statements; all have the one bound, unless it may take longer."""
        await self._bounded(self._connection.run_sync(work), seconds)

    async def commit(self) -> None:
        """Make it last. Raises as `run` does; where it was Lost, it is stored or it is not."""
        await self._bounded(self._connection.commit())

    async def _bounded(
        self, asked: Coroutine[Any, Any, Result], seconds: float | None = None
    ) -> Result:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds or SILENCE_SECONDS, self._cut_off)
        try:
            with translated():
                return await _to_its_end(asked)
        finally:
            timer.cancel()

    def _cut_off(self) -> None:
        if self._driver is not None:
            self._cut(self._driver)


@asynccontextmanager
async def transaction(engine: AsyncEngine, cut: Cut) -> AsyncIterator[Statements]:
    """A transaction that ends with the block: rolled back, unless it was committed."""
    statements = Statements(engine, cut)
    with translated():
        try:
            await statements.start()
            yield statements
        finally:
            await statements.end()


async def _to_its_end(asked: Coroutine[Any, Any, Result]) -> Result:
    """What comes of it; a caller that is cancelled meanwhile waits for it all the same.

    A statement that is given up is carried out by SQLite's thread nevertheless, after its
    connection is back with the others: a lock that it takes then is never given back.
    """
    task = asyncio.create_task(asked)
    left: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as e:
            left = e
    if left:
        # Nobody is there to be told.
        task.exception()
        raise left
    return task.result()
