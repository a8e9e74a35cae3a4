"""The registry in a database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from server.adapters.sql.cursors import Positions
from server.adapters.sql.database_errors import Conflict, Lost
from server.adapters.sql.database_health import DatabaseHealth
from server.adapters.sql.engines import Database
from server.adapters.sql.reader import SqlReader
from server.adapters.sql.transaction import Statements, transaction
from server.adapters.sql.writer import SqlWriter
from server.deadline import Deadline
from server.domain.registry.registry_errors import RegistryUnavailable
from server.ports import RegistryReading, RegistryWriting

Result = TypeVar("Result")

RETRY_SECONDS = 2.0
_SOON_SECONDS = 0.5
_PAUSE_SECONDS = (0.005, 0.05)

_BUSY = (
    "other transactions block the registry's database, such as a program that has it locked:"
    " nothing was stored; try again"
)
_UNKNOWN = (
    "the registry's database did not answer the COMMIT: whether this was stored is unknown; read it"
    " before you try again"
)


class SqlRegistry:
    """Implements `server.ports.Registry`."""

    def __init__(self, database: Database, health: DatabaseHealth) -> None:
        self._database = database
        self._health = health
        self._positions = Positions()

    async def read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        """Run reading work on one consistent state."""
        return await patiently(partial(self._read, work))

    async def write(self, work: Callable[[RegistryWriting], Awaitable[Result]]) -> Result:
        """Run the work and store all of it, or nothing; it may run more than once."""
        return await patiently(partial(self._write, work))

    async def lead(self, holder: str, term: timedelta) -> bool:
        """Acquire or renew the lease of the deployment recorder; False: another replica has it."""
        return await patiently(partial(self._write, lambda writing: writing.lead(holder, term)))

    async def resign(self, holder: str) -> None:
        """Release the lease, so that another replica can lead at once."""
        await patiently(partial(self._write, lambda writing: writing.resign(holder)))

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time that `reachable` changes."""
        self._health.reachability.add(changed)

    def reachable(self) -> bool:
        """Report whether the registry answered its last check."""
        return self._health.problem is None

    async def _read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        async def reading(statements: Statements) -> Result:
            return await work(SqlReader(statements))

        database = self._database
        return await self._in_slot(database.reading, database.readers, reading)

    async def _write(self, work: Callable[[SqlWriter], Awaitable[Result]]) -> Result:
        async def writing(statements: Statements) -> Result:
            result = await work(SqlWriter(statements, self._positions))
            try:
                await statements.commit()
            except Lost as e:
                self._health.lost(e)
                raise RegistryUnavailable(_UNKNOWN) from e
            return result

        database = self._database
        return await self._in_slot(database.writing, database.writers, writing)

    async def _in_slot(
        self,
        slots: asyncio.Semaphore,
        engine: AsyncEngine,
        work: Callable[[Statements], Awaitable[Result]],
    ) -> Result:
        async with slots:
            self._health.require()
            try:
                return await self._on_live_connection(engine, work)
            except Lost as e:
                raise self._health.lost(e) from e

    async def _on_live_connection(
        self, engine: AsyncEngine, work: Callable[[Statements], Awaitable[Result]]
    ) -> Result:
        """Retry once on a quick loss: after a restart of the database all pooled connections are
        lost, and the next one is new."""
        began = asyncio.get_running_loop().time()
        try:
            return await self._once(engine, work)
        except Lost:
            if asyncio.get_running_loop().time() - began > _SOON_SECONDS:
                raise
        return await self._once(engine, work)

    async def _once(
        self, engine: AsyncEngine, work: Callable[[Statements], Awaitable[Result]]
    ) -> Result:
        async with transaction(engine, self._database.cut) as statements:
            return await work(statements)


async def patiently(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Run an attempt, and retry it for RETRY_SECONDS while other transactions conflict. Raises
    RegistryUnavailable after that."""
    deadline: Deadline | None = None
    while True:
        try:
            return await attempt()
        except Conflict as e:
            deadline = deadline or Deadline.after(RETRY_SECONDS)
            if deadline.expired:
                raise RegistryUnavailable(_BUSY) from e
        await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311
