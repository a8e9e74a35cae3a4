"""Asking a database within a transaction, and not for longer than it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.adapters.sql.troubles import translated

Cut = Callable[[Any], None]

SILENCE_SECONDS = 2.0


class Statements:
    """The statements of one transaction.

    A connection on which nothing comes for SILENCE_SECONDS is cut: it then ends as any that is
    lost. Cancelling instead would have the driver tell the database so, and wait for it.
    """

    def __init__(self, connection: AsyncConnection, driver: Any, cut: Cut) -> None:
        self.dialect = connection.dialect.name
        self._connection = connection
        self._driver = driver
        self._cut = cut

    async def run(self, statement: Any) -> Any:
        """Its result. Raises InTheWay, Lost or RegistryUnavailable."""
        with translated(), self._bounded():
            return await self._connection.execute(statement)

    async def sync(self, work: Callable[[Connection], None]) -> None:
        """Do work of several statements, all of which have the one bound."""
        with translated(), self._bounded():
            await self._connection.run_sync(work)

    async def commit(self) -> None:
        """Make it last. Raises as `run` does; where it was Lost, it is stored or it is not."""
        with translated(), self._bounded():
            await self._connection.commit()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(SILENCE_SECONDS, self._cut, self._driver)
        try:
            yield
        finally:
            timer.cancel()


@asynccontextmanager
async def transaction(engine: AsyncEngine, cut: Cut) -> AsyncIterator[Statements]:
    """A transaction that ends with the block: rolled back, unless it was committed."""
    with translated():
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            yield Statements(connection, driver, cut)
