"""What is written to the registry in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from server.adapters.sql import rows, tables
from server.adapters.sql.cursors import Positions
from server.adapters.sql.reader import Rows, SqlReading
from server.adapters.sql.transaction import Statements
from server.domain.errors import AlreadyExists
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.registered import Registered
from server.domain.service.inference_service import ServiceKey

_LEADING = "following"
_LONGEST_TERM = timedelta(minutes=2)


class SqlWriting(SqlReading):
    """Writing as `server.ports.RegistryWriting` has it."""

    def __init__(self, statements: Statements, positions: Positions) -> None:
        super().__init__(statements)
        self._positions = positions

    async def open_deployments(
        self, service: ServiceKey | None = None
    ) -> Sequence[ModelDeployment]:
        """The records without an end, of one service or of all, oldest first."""
        if service:
            await self._hold(service)
        return await super().open_deployments(service)

    async def add(self, thing: Registered | ModelDeployment) -> None:
        """Store something new. Raises AlreadyExists where its name is taken."""
        if isinstance(thing, ModelDeployment):
            await self._hold(thing.service)
        table = rows.kind_of(thing).table
        # Not by the error of a unique name, after which PostgreSQL does no more in a transaction.
        row = rows.row_of(thing) | {"position": self._positions.of(thing.create_time)}
        added = self._insert(table).values(row).on_conflict_do_nothing()
        if not (await self._statements.run(added)).rowcount:
            raise AlreadyExists(f"{_called(thing)} is already there")

    async def replace(self, thing: Registered | ModelDeployment) -> None:
        """Store something that was read in this transaction and changed."""
        table = rows.kind_of(thing).table
        replaced = update(table).where(table.c.id == thing.id).values(rows.row_of(thing))
        result = await self._statements.run(replaced)
        assert result.rowcount == 1, "only what was read in the transaction is replaced"

    async def remove(self, thing: Registered | ModelDeployment) -> None:
        """Forget it; a model's versions go with it."""
        table = rows.kind_of(thing).table
        await self._statements.run(delete(table).where(table.c.id == thing.id))

    async def lead(self, holder: str, term: timedelta) -> bool:
        """Take the lease, or have it longer; False: another has it."""
        now = await self.now()
        wanted = {"holder": holder, "end_time": now + term}
        lease = tables.LEASES
        taken = (
            self._insert(lease)
            .values(name=_LEADING, **wanted)
            .on_conflict_do_update(
                index_elements=[lease.c.name],
                set_=wanted,
                where=or_(
                    lease.c.holder == holder,
                    lease.c.end_time <= now,
                    # From before the clock was turned back.
                    lease.c.end_time > now + _LONGEST_TERM,
                ),
            )
        )
        return bool((await self._statements.run(taken)).rowcount)

    async def resign(self, holder: str) -> None:
        """Give the lease back, if this holder has it."""
        held = delete(tables.LEASES).filter_by(name=_LEADING, holder=holder)
        await self._statements.run(held)

    def _kept(self, found: Rows) -> Rows:
        # SQLite has one writing transaction at a time, and knows no locks of rows.
        return found.with_for_update()

    async def _hold(self, service: ServiceKey) -> None:
        """Keep others from adding records of the service, which no row does that is not there."""
        if self._postgresql:
            name = func.hashtextextended(str(service), 0)
            await self._statements.run(select(func.pg_advisory_xact_lock(name)))

    def _insert(self, table: Any) -> Any:
        return postgresql.insert(table) if self._postgresql else sqlite.insert(table)


def _called(thing: Registered | ModelDeployment) -> str:
    return f"deployment {thing.id}" if isinstance(thing, ModelDeployment) else str(thing.key)
