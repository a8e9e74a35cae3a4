"""Read the registry in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Select, func, select, union_all

from server.adapters.sql import rows
from server.adapters.sql.cursors import first_after, last_before
from server.adapters.sql.rows import Kind
from server.adapters.sql.tables import Time
from server.adapters.sql.transaction import Statements
from server.domain.registry.deployment import DeploymentFilter, ModelDeployment
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    Registered,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.service.inference_service import ServiceKey
from server.ports import Page

Item = TypeVar("Item")
Rows = Select[Any]

_CLOCK = func.clock_timestamp(type_=Time)


class SqlReader:
    """Implements `server.ports.RegistryReading`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._postgresql = statements.dialect == "postgresql"

    async def now(self) -> datetime:
        """Return the present time by the database's clock, also after a wait for a lock."""
        if not self._postgresql:
            return datetime.now(UTC)
        moment: datetime = (await self._statements.run(select(_CLOCK))).scalar_one()
        return moment

    async def model(self, key: ModelKey) -> RegisteredModel | None:
        """Return the model of this name."""
        return await self._one(rows.MODELS, self._named(rows.MODELS, key))

    async def version(self, key: VersionKey) -> ModelVersion | None:
        """Return the version of this name."""
        return await self._one(rows.VERSIONS, self._named(rows.VERSIONS, key))

    async def newest_ready_version(self, model: ModelKey) -> ModelVersion | None:
        """Return the READY version that was added last, independent of the clock."""
        table = rows.VERSIONS.table
        ready = select(table).filter_by(
            project=model.project, model=model.name, state=VersionState.READY.value
        )
        return await self._one(rows.VERSIONS, ready.order_by(table.c.number.desc()).limit(1))

    async def environment(self, key: EnvironmentKey) -> ServingEnvironment | None:
        """Return the environment of this name."""
        return await self._one(rows.ENVIRONMENTS, self._named(rows.ENVIRONMENTS, key))

    async def deployment(self, deployment_id: str) -> ModelDeployment | None:
        """Return the record of this id."""
        of_id = select(rows.DEPLOYMENTS.table).filter_by(id=deployment_id)
        return await self._one(rows.DEPLOYMENTS, of_id)

    async def open_deployments(
        self, service: ServiceKey | None = None
    ) -> Sequence[ModelDeployment]:
        """Return the records that have not ended, of one service or of all, oldest first."""
        table = rows.DEPLOYMENTS.table
        found = _open().order_by(table.c.position, table.c.number)
        if service:
            found = self._locked(found.filter_by(namespace=service.namespace, service=service.name))
        return await self._all(rows.DEPLOYMENTS, found)

    async def users(self, resource: Registered, most: int) -> Sequence[ModelDeployment]:
        """Return at most so many records that have not ended and were made from the resource."""
        match resource:
            case RegisteredModel():
                made = _open().filter_by(model_id=resource.id)
            case ModelVersion():
                made = _open().filter_by(version_id=resource.id)
            case ServingEnvironment():
                made = _open().filter_by(environment_id=resource.id)
        return await self._all(rows.DEPLOYMENTS, made.limit(most))

    async def models(self, project: str, size: int, position: int | None) -> Page[RegisteredModel]:
        """Return a page of a project's models, from a cursor on."""
        return await self._page(rows.MODELS, [{"project": project}], size, position)

    async def versions(
        self, model: ModelKey, size: int, position: int | None
    ) -> Page[ModelVersion]:
        """Return a page of a model's versions, from a cursor on."""
        of_model = {"project": model.project, "model": model.name}
        return await self._page(rows.VERSIONS, [of_model], size, position)

    async def environments(
        self, project: str, size: int, position: int | None
    ) -> Page[ServingEnvironment]:
        """Return a page of a project's environments, from a cursor on."""
        return await self._page(rows.ENVIRONMENTS, [{"project": project}], size, position)

    async def deployments(
        self, wanted: DeploymentFilter, size: int, position: int | None
    ) -> Page[ModelDeployment]:
        """Return a page of records, from a cursor on."""
        equal = _equal(wanted)
        alike = [equal | {"state": state.value} for state in wanted.states] or [equal]
        # One upper bound of both, so that the index is entered where the page begins.
        bounds = [position] if position is not None else []
        bounds += [last_before(wanted.created_before)] if wanted.created_before else []
        oldest = first_after(wanted.created_after) if wanted.created_after else None
        return await self._page(rows.DEPLOYMENTS, alike, size, min(bounds, default=None), oldest)

    def _locked(self, found: Rows) -> Rows:
        """Lock the rows, in a writing transaction."""
        return found

    def _named(self, kind: Kind[Any], key: ModelKey | VersionKey | EnvironmentKey) -> Rows:
        return select(kind.table).filter_by(**key._asdict())

    async def _one(self, kind: Kind[Item], found: Rows) -> Item | None:
        items = await self._all(kind, self._locked(found))
        return items[0] if items else None

    async def _all(self, kind: Kind[Item], found: Any) -> list[Item]:
        result = await self._statements.run(found)
        return [kind.read(row) for row in result.mappings()]

    async def _page(
        self,
        kind: Kind[Item],
        alike: Sequence[Mapping[str, str]],
        size: int,
        newest: int | None,
        oldest: int | None = None,
    ) -> Page[Item]:
        """Read one more item than the page has, to know whether another page follows."""
        each = [_newest(kind, equal, newest, oldest).limit(size + 1) for equal in alike]
        found = each[0] if len(each) == 1 else _merged(each).limit(size + 1)
        result = (await self._statements.run(found)).mappings().all()
        return Page([kind.read(row) for row in result[:size]], [row["position"] for row in result])


def _open() -> Rows:
    table = rows.DEPLOYMENTS.table
    return select(table).where(table.c.end_time.is_(None))


def _equal(wanted: DeploymentFilter) -> dict[str, str]:
    columns = {
        "model": wanted.model,
        "version": wanted.version,
        "environment": wanted.environment,
        "namespace": wanted.namespace,
        "service": wanted.service,
    }
    return {"project": wanted.project} | {name: value for name, value in columns.items() if value}


def _newest(
    kind: Kind[Any], equal: Mapping[str, str], newest: int | None, oldest: int | None
) -> Rows:
    table = kind.table
    found = select(table).filter_by(**equal)
    if newest is not None:
        found = found.where(table.c.position <= newest)
    if oldest is not None:
        found = found.where(table.c.position >= oldest)
    return found.order_by(table.c.position.desc(), table.c.number.desc())


def _merged(each: Sequence[Rows]) -> Rows:
    """Merge queries of one state each, with its own order and limit: an index orders only one."""
    together = union_all(*(select(one.subquery()) for one in each)).subquery()
    return select(together).order_by(together.c.position.desc(), together.c.number.desc())
