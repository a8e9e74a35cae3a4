"""The registry over a database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from server.adapters.sql.cursors import Positions
from server.adapters.sql.database_errors import InTheWay, Lost
from server.adapters.sql.database_health import Presence
from server.adapters.sql.engines import Database
from server.adapters.sql.reader import SqlReading
from server.adapters.sql.transaction import Statements, transaction
from server.adapters.sql.writer import SqlWriting
from server.deadline import Deadline
from server.domain.registry.registry_errors import RegistryUnavailable
from server.ports import RegistryReading, RegistryWriting

Result = TypeVar("Result")

PATIENCE_SECONDS = 2.0
_SOON_SECONDS = 0.5
_PAUSE_SECONDS = (0.005, 0.05)

_BUSY = (
    "others are in the way in the registry's database, such as a program that has it locked:"
    " nothing was stored; try again"
)
_UNKNOWN = (
    "the registry's database did not answer the COMMIT: whether this was stored is unknown; read it"
    " before you try again"
)


class SqlRegistry:
    """The registry as `server.ports.Registry` has it."""

    def __init__(self, database: Database, presence: Presence) -> None:
        self._database = database
        self._presence = presence
        self._positions = Positions()

    async def read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        """Do reading work on one consistent state."""
        return await patiently(partial(self._read, work))

    async def write(self, work: Callable[[RegistryWriting], Awaitable[Result]]) -> Result:
        """Do the work and store all of it, or nothing; perhaps more than once."""
        return await patiently(partial(self._write, work))

    async def lead(self, holder: str, term: timedelta) -> bool:
        """Become or stay the one who follows the feed in the records; False: another is."""
        return await patiently(partial(self._write, lambda writing: writing.lead(holder, term)))

    async def resign(self, holder: str) -> None:
        """Let another lead at once."""
        await patiently(partial(self._write, lambda writing: writing.resign(holder)))

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time that `reachable` begins to answer otherwise."""
        self._presence.reachability.add(changed)

    def reachable(self) -> bool:
        """Whether the registry answered when it was last asked."""
        return self._presence.trouble is None

    async def _read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        async def reading(statements: Statements) -> Result:
            return await work(SqlReading(statements))

        database = self._database
        return await self._in_turn(database.reading, database.readers, reading)

    async def _write(self, work: Callable[[SqlWriting], Awaitable[Result]]) -> Result:
        async def writing(statements: Statements) -> Result:
            result = await work(SqlWriting(statements, self._positions))
            try:
                await statements.commit()
            except Lost as e:
                self._presence.lost(e)
                raise RegistryUnavailable(_UNKNOWN) from e
            return result

        database = self._database
        return await self._in_turn(database.writing, database.writers, writing)

    async def _in_turn(
        self,
        turns: asyncio.Semaphore,
        engine: AsyncEngine,
        work: Callable[[Statements], Awaitable[Result]],
    ) -> Result:
        async with turns:
            self._presence.require()
            try:
                return await self._on_live_connection(engine, work)
            except Lost as e:
                raise self._presence.lost(e) from e

    async def _on_live_connection(
        self, engine: AsyncEngine, work: Callable[[Statements], Awaitable[Result]]
    ) -> Result:
        """A connection kept from before the database was started anew is lost at once, and all of
        its age with it; the next one is new."""
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
    """What comes of an attempt, made again for PATIENCE_SECONDS while others are in its way; then
    it raises RegistryUnavailable."""
    deadline: Deadline | None = None
    while True:
        try:
            return await attempt()
        except InTheWay as e:
            deadline = deadline or Deadline.after(PATIENCE_SECONDS)
            if deadline.expired:
                raise RegistryUnavailable(_BUSY) from e
        await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311
