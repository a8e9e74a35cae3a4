"""The registry's tables as the newest migration leaves them."""

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
    """A moment, to the microsecond; SQLite keeps it without its zone, which is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What the driver is given."""
        utc = value and value.astimezone(UTC)
        return utc.replace(tzinfo=None) if utc and dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What the driver gave."""
        if value and dialect.name == "sqlite":
            return value.replace(tzinfo=UTC)
        return value and value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text for people, from wherever: what cannot be stored of it is replaced."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What the driver is given."""
        return value and storable_text(value)


def _number() -> Column[int]:
    """Counts what is added, whatever the clock says; never given twice."""
    return Column(
        "number", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )


def _position() -> Column[int]:
    """The place in listings, which are by the time of creation: see `positions`."""
    return Column("position", BigInteger, nullable=False)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _words(name: str) -> Column[str]:
    return Column(name, Words, nullable=False)


def _json(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, Time, nullable=nullable)


def _registered(name: str, *columns: Any) -> Table:
    """What all have that a team registers."""
    return Table(
        name,
        METADATA,
        _number(),
        _position(),
        Column("id", Text, nullable=False, unique=True),
        _text("project"),
        *columns,
        _words("description"),
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
    """For pages of the records that are alike in these columns."""
    name = "_".join(("model_deployments_newest", *columns[1:]))
    return Index(name, *columns, "position", "number")


def _open(column: str, *more: str) -> Index:
    """For the records without an end, which stay few."""
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
    _words("url"),
    _json("failure", nullable=True),
    _text("error_reason"),
    _words("error_message"),
    _words("caller"),
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

# One row: who follows the feed in the records, and until when.
LEASES = Table(
    "leases",
    METADATA,
    Column("name", Text, primary_key=True),
    _text("holder"),
    _time("end_time"),
)
