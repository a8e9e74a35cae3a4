"""A page of ListModelDeployments of a large table, beside the same page of a small one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from modelservice.v1 import registry_pb2, registry_service_pb2
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub
from sqlalchemy import insert, text

from server.adapters.sql import engines, rows
from server.adapters.sql.cursors import Positions
from server.adapters.sql.factory import migrate
from server.adapters.sql.transaction import transaction
from server.domain.registry.deployment import DeploymentState, ModelDeployment
from server.domain.service.inference_service import ServiceKey
from tests import postgresql

from .comparing import Comparison, Say
from .peers import memory_server

PROJECT = "bench"
PAGE = 50
# The oldest records are the only ones that the filters find: an index leads to them, or nothing.
RARE = PAGE + 10
BATCH = 50  # a statement of many rows takes long to put together
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

Request = registry_service_pb2.ListModelDeploymentsRequest


def measure_deployments(
    say: Say, *, many: int, few: int, rounds: int, folder: Path
) -> list[Comparison]:
    """The milliseconds of one page, without and with each filter, on both databases."""
    comparisons = []
    with ExitStack() as stack:
        urls = {"SQLite": [f"sqlite:///{folder}/{size}.db" for size in (many, few)]}
        if why := postgresql.why_there_is_none():
            say(f"deployments: SQLite only, since {why}")
        else:
            servers = [stack.enter_context(postgresql.started_postgresql()) for _ in range(2)]
            urls["PostgreSQL"] = [server.url for server in servers]
        for database, (large, small) in urls.items():
            say(f"deployments: filling {database} with {many:,} and with {few:,} records")
            asyncio.run(_filled(large, many))
            asyncio.run(_filled(small, few))
            with _stub(folder, large) as ours, _stub(folder, small) as beside:
                for name, request in _requests():
                    what = f"deployments, {database}, {name}"
                    times = _side_by_side(ours, beside, request, rounds)
                    bare_is = f"of {few:,} records"
                    comparisons.append(Comparison(what, "ms", *times, bare_is, aim_most=2))
    return comparisons


def _requests() -> Iterator[tuple[str, Request]]:
    rare = {
        "model": "rare",
        "version": "rare",
        "environment": "rare",
        "namespace": "rare",
        "service": "rare",
        "states": [registry_pb2.ModelDeployment.STATE_FAILED],
        "created_before": BEGAN + timedelta(seconds=RARE),
    }
    yield "no filter", Request(project=PROJECT, page_size=PAGE)
    yield "created_after", Request(project=PROJECT, page_size=PAGE, created_after=BEGAN)
    for name, value in rare.items():
        yield name, Request(project=PROJECT, page_size=PAGE, **{name: value})


def _side_by_side(
    ours: RegistryServiceStub, beside: RegistryServiceStub, request: Request, rounds: int
) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for stub, taken in zip((ours, beside), times, strict=True):
            began = time.perf_counter()
            page = stub.ListModelDeployments(request)
            taken.append((time.perf_counter() - began) * 1e3)
            assert len(page.deployments) == PAGE
    return times


@contextmanager
def _stub(folder: Path, url: str) -> Iterator[RegistryServiceStub]:
    with memory_server(folder, url) as peer, grpc.insecure_channel(peer.address) as channel:
        yield RegistryServiceStub(channel)


async def _filled(url: str, size: int) -> None:
    await migrate(url)
    path = url.removeprefix("sqlite:///")
    opened = engines.postgresql(url) if path == url else engines.sqlite(Path(path))
    positions, table = Positions(), rows.DEPLOYMENTS.table
    async with opened as database, transaction(database.writers, database.cut) as statements:
        for first in range(0, size, BATCH):
            batch = [_record(number) for number in range(first, min(first + BATCH, size))]
            placed = [
                rows.row_of(record) | {"position": positions.of(record.create_time)}
                for record in batch
            ]
            await statements.run(insert(table).values(placed))
        if statements.dialect == "postgresql":
            # As it does by itself within a minute, which here would come in between.
            await statements.run(text("ANALYZE"))
        await statements.commit()


def _record(number: int) -> ModelDeployment:
    """A second after the one before; all have ended, so that nobody looks for their services."""
    at = BEGAN + timedelta(seconds=number)
    name = "rare" if number < RARE else f"m{number % 20}"
    return ModelDeployment(
        id=f"deployment-{number}",
        project=PROJECT,
        model=name,
        version=name,
        environment=name,
        model_id=name,
        version_id=name,
        environment_id=name,
        service=ServiceKey(name, name),
        content="c",
        state=DeploymentState.FAILED if number < RARE else DeploymentState.SUPERSEDED,
        create_time=at,
        update_time=at,
        end_time=at,
    )
