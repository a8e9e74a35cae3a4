"""Upgrade a database to this server's schema."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, func, select

from server.adapters.sql.schema import SCHEMA, OlderSchema, check

# The number of the advisory lock: any that no other program uses.
_ONE_MIGRATION = 0x6D6F64656C


def migrate(connection: Connection) -> None:
    """Migrate in the open transaction, one server at a time. Raises NewerSchema."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_ONE_MIGRATION)))
    try:
        check(connection)
    except OlderSchema:
        _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    # The import takes a tenth of a second, which a start on a migrated database does not need.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, SCHEMA)
