"""PostgreSQL that goes away, is silent, locked, or has another schema: told clearly, nothing lost,
and healed by itself."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from server.adapters.sql.factory import RegistryUnusable, migrate, opened_registry
from server.domain.registry.registry_errors import RegistryUnavailable
from server.ports import Registry
from tests import postgresql
from tests.adapters.sql.cutting_proxy import CuttingProxy, Loses
from tests.adapters.sql.statements import (
    AT_MOST_SECONDS,
    AT_ONCE_SECONDS,
    add,
    answer,
    has,
    healed,
    refused,
    until,
)
from tests.contracts.registry_things import model, new_project
from tests.postgresql import END_OTHERS, PostgreSQL, execute
from tests.registry_store import leave_out_without_postgresql

pytestmark = pytest.mark.processes

AWAY = "does not answer, nothing was stored"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """Of these tests alone, which stop it."""
    leave_out_without_postgresql()
    with postgresql.started_postgresql() as server:
        yield server


@pytest_asyncio.fixture
async def url(server: PostgreSQL) -> AsyncIterator[str]:
    server.start()
    async with postgresql.fresh_database(server.url) as url:
        await migrate(url)
        yield url
        server.start()


@pytest_asyncio.fixture
async def proxy(url: str) -> AsyncIterator[CuttingProxy]:
    with tempfile.TemporaryDirectory() as folder:
        async with CuttingProxy(Path(folder), url).listening() as proxy:
            yield proxy


@pytest_asyncio.fixture
async def registry(url: str) -> AsyncIterator[Registry]:
    async with opened_registry(url) as registry:
        yield registry


@pytest_asyncio.fixture
async def cut_off(proxy: CuttingProxy) -> AsyncIterator[Registry]:
    """A registry that the proxy can keep from its database."""
    async with opened_registry(proxy.url) as registry:
        yield registry


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_stopped_in_the_middle_of_a_transaction_it_leaves_nothing_of_it(
    server: PostgreSQL, registry: Registry, how: signal.Signals
) -> None:
    before, lost = await add(registry), model(new_project())

    async def work(writing: Any) -> None:
        await writing.add(lost)
        server.stop(how)
        await writing.add(model(new_project()))

    with refused(AWAY):
        await registry.write(work)
    assert not registry.reachable()
    server.start()
    await healed(registry)
    assert await has(registry, before)
    assert not await has(registry, lost)


async def test_started_anew_between_two_calls_nobody_hears_of_it(
    server: PostgreSQL, registry: Registry
) -> None:
    added = await asyncio.gather(*(add(registry) for _ in range(8)))
    server.stop()
    server.start()
    found = await asyncio.gather(*(has(registry, each) for each in added))
    assert all(found)
    await add(registry)


async def test_work_whose_connection_is_ended_is_done_once_more(
    server: PostgreSQL, registry: Registry, url: str
) -> None:
    ended = False
    added = model(new_project())

    async def work(writing: Any) -> None:
        nonlocal ended
        await writing.add(added)
        if not ended:
            ended = True
            await execute(url, END_OTHERS)
        await writing.add(model(new_project()))

    await registry.write(work)
    assert await has(registry, added)


@pytest.mark.parametrize(
    ("loses", "stored"), [(Loses.COMMITS, False), (Loses.ANSWERS_OF_COMMITS, True)]
)
async def test_a_commit_that_is_not_answered_is_told_as_such_and_not_done_again(
    proxy: CuttingProxy, cut_off: Registry, url: str, loses: Loses, stored: bool
) -> None:
    added, times = model(new_project()), 0

    async def work(writing: Any) -> None:
        nonlocal times
        times += 1
        await writing.add(added)
        proxy.loses = loses

    with refused("unknown"):
        await cut_off.write(work)
    proxy.loses = Loses.NOTHING
    await healed(cut_off)
    assert times == 1
    assert await has(cut_off, added) is stored


async def test_a_database_that_is_silent_is_told_to_all_in_two_seconds_and_then_at_once(
    proxy: CuttingProxy, cut_off: Registry
) -> None:
    """More callers than connections, so that some wait for their turn."""
    await asyncio.gather(*(add(cut_off) for _ in range(30)))
    proxy.loses = Loses.EVERYTHING
    with refused("."):
        outcomes = await asyncio.gather(*(answer(add(cut_off)) for _ in range(60)))
        assert all(isinstance(each, RegistryUnavailable) for each in outcomes)
        raise outcomes[0]
    with refused(AWAY, within=AT_ONCE_SECONDS):
        await add(cut_off)
    assert not cut_off.reachable()
    proxy.loses = Loses.NOTHING
    await healed(cut_off)


async def test_a_silent_commit_is_told_in_two_seconds(
    proxy: CuttingProxy, cut_off: Registry
) -> None:
    async def work(writing: Any) -> None:
        await writing.add(model(new_project()))
        proxy.loses = Loses.EVERYTHING

    with refused("unknown"):
        await cut_off.write(work)
    proxy.loses = Loses.NOTHING
    await healed(cut_off)


async def test_down_at_the_start_it_is_waited_for(server: PostgreSQL, url: str) -> None:
    server.stop()
    async with opened_registry(url) as registry:
        assert not registry.reachable()
        with refused(AWAY, within=AT_ONCE_SECONDS):
            await add(registry)
        server.start()
        await healed(registry)


async def test_silent_from_the_moment_it_took_a_connection_it_is_waited_for(
    proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = asyncpg.connect

    async def falls_silent(*arguments: Any, **options: Any) -> Any:
        connection = await connect(*arguments, **options)
        proxy.loses = Loses.EVERYTHING
        return connection

    monkeypatch.setattr(asyncpg, "connect", falls_silent)
    async with asyncio.timeout(AT_MOST_SECONDS), opened_registry(proxy.url) as registry:
        assert not registry.reachable()
        monkeypatch.undo()
        proxy.cut()
        proxy.loses = Loses.NOTHING
        await healed(registry)


async def test_an_outage_is_noticed_without_any_call(
    server: PostgreSQL, registry: Registry
) -> None:
    server.stop()
    await until(lambda: not registry.reachable(), "the outage is noticed")
    server.start()
    await healed(registry)


async def test_a_row_that_another_program_keeps_locked_is_in_the_way_and_no_outage(
    registry: Registry, url: str
) -> None:
    added = await add(registry)
    holder = await asyncpg.connect(url)
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM registered_models FOR UPDATE")
            with refused("other transactions block"):
                await registry.write(lambda writing: writing.model(added.key))
            assert registry.reachable()
            assert await has(registry, added)
    finally:
        await holder.close()
    await registry.write(lambda writing: writing.remove(added))


@pytest.mark.parametrize(("schema", "told"), [("0000", "earlier"), ("0002", "later")])
async def test_another_schema_is_told_and_keeps_a_server_from_starting(
    registry: Registry, url: str, schema: str, told: str
) -> None:
    added = await add(registry)
    await execute(url, f"UPDATE alembic_version SET version_num = '{schema}'")
    await until(lambda: not registry.reachable(), "the other schema is noticed")
    with refused(f"schema {schema} of an? {told} release"):
        await add(registry)
    with pytest.raises(RegistryUnusable, match=f"{schema} of an? {told}.*works with"):
        async with opened_registry(url):
            pass
    await execute(url, "UPDATE alembic_version SET version_num = '0001'")
    await healed(registry)
    assert await has(registry, added)


async def test_a_table_of_another_schema_is_told_also_before_that_is_noticed(
    registry: Registry, url: str
) -> None:
    await execute(url, "ALTER TABLE registered_models RENAME COLUMN etag TO other")
    with refused("another schema"):
        await add(registry)
    await execute(url, "ALTER TABLE registered_models RENAME COLUMN other TO etag")
    await healed(registry)


async def test_a_migration_under_a_server_that_runs_is_not_heard_of_where_it_fits(
    registry: Registry, url: str
) -> None:
    added = await add(registry)
    assert await has(registry, added)
    await execute(url, "ALTER TABLE registered_models ALTER name TYPE varchar(70)")
    assert await has(registry, added)
    assert registry.reachable()


async def test_an_empty_database_keeps_a_server_from_starting(server: PostgreSQL, url: str) -> None:
    async with postgresql.fresh_database(server.url) as empty:
        with pytest.raises(RegistryUnusable, match=r"is empty.*server migrate"):
            async with opened_registry(empty):
                pass


async def test_a_user_without_rights_is_told_and_helped_by_granting_them(
    registry: Registry, url: str
) -> None:
    await execute(url, "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA public TO reader;")
    await execute(url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    async with opened_registry(url.replace("postgres:secret", "reader:secret", 1)) as reader:
        with refused("refuses its user"):
            await add(reader)
        await execute(url, "GRANT ALL ON ALL TABLES IN SCHEMA public TO reader")
        await healed(reader)
    await execute(url, "DROP OWNED BY reader; DROP ROLE reader")


async def test_a_standby_is_no_place_to_write_and_becomes_one_by_promotion(
    registry: Registry, url: str
) -> None:
    database = url.partition("@/")[2].partition("?")[0]
    await execute(url, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    await execute(url, END_OTHERS)
    with refused(AWAY):
        await add(registry)
    await execute(url, f"ALTER DATABASE {database} RESET default_transaction_read_only")
    await execute(url, END_OTHERS)
    await healed(registry)
