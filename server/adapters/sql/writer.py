"""Write to the registry in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from server.adapters.sql import rows, tables
from server.adapters.sql.cursors import Positions
from server.adapters.sql.reader import Rows, SqlReader
from server.adapters.sql.transaction import Statements
from server.domain.errors import AlreadyExists
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.registered import Registered
from server.domain.service.inference_service import ServiceKey

_LEADING = "following"
_LONGEST_TERM = timedelta(minutes=2)


class SqlWriter(SqlReader):
    """Implements `server.ports.RegistryWriting`."""

    def __init__(self, statements: Statements, positions: Positions) -> None:
        super().__init__(statements)
        self._positions = positions

    async def open_deployments(
        self, service: ServiceKey | None = None
    ) -> Sequence[ModelDeployment]:
        """Return the records that have not ended, of one service or of all, oldest first."""
        if service:
            await self._lock_service(service)
        return await super().open_deployments(service)

    async def add(self, resource: Registered | ModelDeployment) -> None:
        """Add a resource. Raises AlreadyExists if its name is taken."""
        if isinstance(resource, ModelDeployment):
            await self._lock_service(resource.service)
        table = rows.kind_of(resource).table
        # A unique violation would end the transaction in PostgreSQL.
        row = rows.row_of(resource) | {"position": self._positions.of(resource.create_time)}
        added = self._insert(table).values(row).on_conflict_do_nothing()
        if not (await self._statements.run(added)).rowcount:
            raise AlreadyExists(f"{_name_of(resource)} exists already")

    async def replace(self, resource: Registered | ModelDeployment) -> None:
        """Replace a resource that was read in this transaction."""
        table = rows.kind_of(resource).table
        replaced = update(table).where(table.c.id == resource.id).values(rows.row_of(resource))
        result = await self._statements.run(replaced)
        assert result.rowcount == 1, "only resources that were read in the transaction are replaced"

    async def remove(self, resource: Registered | ModelDeployment) -> None:
        """Delete a resource; a model's versions are deleted with it."""
        table = rows.kind_of(resource).table
        await self._statements.run(delete(table).where(table.c.id == resource.id))

    async def lead(self, holder: str, term: timedelta) -> bool:
        """Acquire or renew the lease; False: another holder has it."""
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
                    # Left from before the clock was turned back.
                    lease.c.end_time > now + _LONGEST_TERM,
                ),
            )
        )
        return bool((await self._statements.run(taken)).rowcount)

    async def resign(self, holder: str) -> None:
        """Release the lease, if this holder has it."""
        held = delete(tables.LEASES).filter_by(name=_LEADING, holder=holder)
        await self._statements.run(held)

    def _locked(self, found: Rows) -> Rows:
        # SQLite has one writing transaction at a time, and no row locks.
        return found.with_for_update()

    async def _lock_service(self, service: ServiceKey) -> None:
        """Take an advisory lock on the service's name: row locks cannot stop inserts."""
        if self._postgresql:
            name = func.hashtextextended(str(service), 0)
            await self._statements.run(select(func.pg_advisory_xact_lock(name)))

    def _insert(self, table: Any) -> Any:
        return postgresql.insert(table) if self._postgresql else sqlite.insert(table)


def _name_of(resource: Registered | ModelDeployment) -> str:
    return (
        f"deployment {resource.id}" if isinstance(resource, ModelDeployment) else str(resource.key)
    )
