"""Check the schema of a database."""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

# The newest migration in `migrations`; their numbers order the releases.
SCHEMA = "0001"

_VERSION = Table("alembic_version", MetaData(), Column("version_num", Text))


class OtherSchema(Exception):
    """The database has another schema than this server's; the message is for operators."""


class OlderSchema(OtherSchema):
    """The database has no schema, or one of an earlier release."""


class NewerSchema(OtherSchema):
    """The database has the schema of a later release."""


def check(connection: Connection) -> None:
    """Raise OlderSchema or NewerSchema if the database does not have this server's schema."""
    found = _found(connection)
    if found == SCHEMA:
        return
    if found and found > SCHEMA:
        raise NewerSchema(
            f"the registry's database has schema {found} of a later release, this server works"
            f" with {SCHEMA}: start the release that made it, or a later one"
        )
    has = f"has schema {found} of an earlier release" if found else "is empty"
    raise OlderSchema(
        f"the registry's database {has}, this server works with schema {SCHEMA}:"
        " run python -m server migrate"
    )


def _found(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION.name):
        return None
    found: str | None = connection.execute(select(_VERSION.c.version_num)).scalar()
    return found
