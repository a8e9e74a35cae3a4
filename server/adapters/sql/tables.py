"""The registry's tables after the newest migration."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from server.domain.registry.storable_text import storable_text

METADATA = MetaData()


class Time(TypeDecorator[datetime]):
    """A time, to the microsecond; SQLite stores it without its zone, UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a value for the driver."""
        utc = value and value.astimezone(UTC)
        return utc.replace(tzinfo=None) if utc and dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a value of the driver."""
        if value and dialect.name == "sqlite":
            return value.replace(tzinfo=UTC)
        return value and value.astimezone(UTC)


class StorableText(TypeDecorator[str]):
    """Text from any source; characters that cannot be stored are replaced."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Convert a value for the driver."""
        return value and storable_text(value)


def _number() -> Column[int]:
    """Number the rows in the order of their insertion; numbers are never reused."""
    return Column(
        "number", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )


def _position() -> Column[int]:
    """The cursor of lists, which are ordered by creation: see `cursors`."""
    return Column("position", BigInteger, nullable=False)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _storable(name: str) -> Column[str]:
    return Column(name, StorableText, nullable=False)


def _json(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, Time, nullable=nullable)


def _registered(name: str, *columns: Any) -> Table:
    """Define a table with the columns of all registered resources."""
    return Table(
        name,
        METADATA,
        _number(),
        _position(),
        Column("id", Text, nullable=False, unique=True),
        _text("project"),
        *columns,
        _storable("description"),
        _json("labels"),
        _text("etag"),
        _time("create_time"),
        _time("update_time"),
        sqlite_autoincrement=True,
    )


MODELS = _registered(
    "registered_models",
    _text("name"),
    _text("default_version"),
    UniqueConstraint("project", "name"),
    Index("registered_models_newest", "project", "position", "number"),
)

VERSIONS = _registered(
    "model_versions",
    _text("model"),
    _text("version"),
    _text("storage_uri"),
    _text("image"),
    _json("format", nullable=True),
    _text("state"),
    _json("metadata"),
    UniqueConstraint("project", "model", "version"),
    ForeignKeyConstraint(
        ["project", "model"],
        ["registered_models.project", "registered_models.name"],
        ondelete="CASCADE",
    ),
    Index("model_versions_newest_model", "project", "model", "position", "number"),
)

ENVIRONMENTS = _registered(
    "serving_environments",
    _text("name"),
    _text("namespace"),
    _json("defaults"),
    UniqueConstraint("project", "name"),
    Index("serving_environments_newest", "project", "position", "number"),
)


def _newest(*columns: str) -> Index:
    """Index pages of the records that are equal in these columns."""
    name = "_".join(("model_deployments_newest", *columns[1:]))
    return Index(name, *columns, "position", "number")


def _open(column: str, *more: str) -> Index:
    """Index the records that have not ended, which are few."""
    is_open = text("end_time IS NULL")
    return Index(
        f"model_deployments_open_{column}",
        column,
        *more,
        postgresql_where=is_open,
        sqlite_where=is_open,
    )


DEPLOYMENTS = Table(
    "model_deployments",
    METADATA,
    _number(),
    _position(),
    Column("id", Text, nullable=False, unique=True),
    _text("project"),
    _text("model"),
    _text("version"),
    _text("environment"),
    _text("model_id"),
    _text("version_id"),
    _text("environment_id"),
    _text("namespace"),
    _text("service"),
    _text("content"),
    Column("rollout_uid", Text),
    Column("rollout_generation", BigInteger),
    _text("desired_state"),
    _text("state"),
    _storable("url"),
    _json("failure", nullable=True),
    _text("error_reason"),
    _storable("error_message"),
    _storable("caller"),
    _time("create_time"),
    _time("update_time"),
    _time("ready_time", nullable=True),
    _time("end_time", nullable=True),
    _newest("project"),
    _newest("project", "model"),
    _newest("project", "model", "version"),
    _newest("project", "version"),
    _newest("project", "environment"),
    _newest("project", "namespace"),
    _newest("project", "service"),
    _newest("project", "state"),
    _open("namespace", "service"),
    _open("model_id"),
    _open("version_id"),
    _open("environment_id"),
    sqlite_autoincrement=True,
)

# One row: the replica that runs the deployment recorder, and the end of its lease.
LEASES = Table(
    "leases",
    METADATA,
    Column("name", Text, primary_key=True),
    _text("holder"),
    _time("end_time"),
)
