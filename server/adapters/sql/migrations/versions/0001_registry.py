"""Registered models, their versions, serving environments, deployments, and who records them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables of the first release."""
    _create_models()
    _create_versions()
    _create_environments()
    _create_deployments()
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        *_texts("holder"),
        *_times("end_time"),
    )


def _create_models() -> None:
    op.create_table(
        "registered_models",
        *_identity(),
        *_texts("project", "name", "default_version"),
        *_registered(),
        sa.UniqueConstraint("project", "name"),
        sqlite_autoincrement=True,
    )
    _newest("registered_models", "project")


def _create_versions() -> None:
    op.create_table(
        "model_versions",
        *_identity(),
        *_texts("project", "model", "version", "storage_uri", "image"),
        sa.Column("format", sa.JSON),
        *_texts("state"),
        sa.Column("metadata", sa.JSON, nullable=False),
        *_registered(),
        sa.UniqueConstraint("project", "model", "version"),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["registered_models.project", "registered_models.name"],
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    _newest("model_versions", "project", "model")


def _create_environments() -> None:
    op.create_table(
        "serving_environments",
        *_identity(),
        *_texts("project", "name", "namespace"),
        sa.Column("defaults", sa.JSON, nullable=False),
        *_registered(),
        sa.UniqueConstraint("project", "name"),
        sqlite_autoincrement=True,
    )
    _newest("serving_environments", "project")


def _create_deployments() -> None:
    op.create_table(
        "model_deployments",
        *_identity(),
        *_texts("project", "model", "version", "environment"),
        *_texts("model_id", "version_id", "environment_id", "namespace", "service", "content"),
        sa.Column("rollout_uid", sa.Text),
        sa.Column("rollout_generation", sa.BigInteger),
        *_texts("desired_state", "state", "url"),
        sa.Column("failure", sa.JSON),
        *_texts("error_reason", "error_message", "caller"),
        *_times("create_time", "update_time"),
        *_times("ready_time", "end_time", nullable=True),
        sqlite_autoincrement=True,
    )
    _newest("model_deployments", "project")
    for column in ("model", "version", "environment", "namespace", "service", "state"):
        _newest("model_deployments", "project", column)
    _newest("model_deployments", "project", "model", "version")
    for columns in (("namespace", "service"), ("model_id",), ("version_id",), ("environment_id",)):
        _open(columns)


def _identity() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("number", _BIG, sa.Identity(), primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
    )


def _registered() -> tuple[sa.Column[Any], ...]:
    return (
        *_texts("description"),
        sa.Column("labels", sa.JSON, nullable=False),
        *_texts("etag"),
        *_times("create_time", "update_time"),
    )


def _texts(*names: str) -> tuple[sa.Column[Any], ...]:
    return tuple(sa.Column(name, sa.Text, nullable=False) for name in names)


def _times(*names: str, nullable: bool = False) -> tuple[sa.Column[Any], ...]:
    return tuple(sa.Column(name, sa.DateTime(timezone=True), nullable=nullable) for name in names)


def _newest(table: str, *columns: str) -> None:
    name = "_".join((table, "newest", *columns[1:]))
    op.create_index(name, table, [*columns, "position", "number"])


def _open(columns: Sequence[str]) -> None:
    is_open = sa.text("end_time IS NULL")
    op.create_index(
        f"model_deployments_open_{columns[0]}",
        "model_deployments",
        list(columns),
        postgresql_where=is_open,
        sqlite_where=is_open,
    )
