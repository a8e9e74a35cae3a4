"""A SQLite file that is locked, has no room, is none, or has another schema: told clearly, nothing
lost, and healed by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from server.adapters.sql.factory import RegistryUnusable, opened_registry
from server.domain.registry.registry_errors import RegistryUnavailable
from server.ports import Registry
from tests.adapters.sql.statements import add, answer, has, healed, refused, until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
async def registry(file: Path) -> AsyncIterator[Registry]:
    async with opened_registry(f"sqlite:///{file}") as registry:
        yield registry


@contextmanager
def another_program(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection of its own, in which nothing begins by itself."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        yield connection


async def test_a_file_that_another_program_keeps_locked_is_read_and_not_written(
    registry: Registry, file: Path
) -> None:
    before = await add(registry)
    with another_program(file) as other:
        other.execute("BEGIN IMMEDIATE")
        with refused("other transactions block.*nothing was stored"):
            await add(registry)
        outcomes = await asyncio.gather(*(answer(add(registry)) for _ in range(10)))
        assert all(isinstance(each, RegistryUnavailable) for each in outcomes)
        assert await has(registry, before)
        assert registry.reachable()
        other.execute("ROLLBACK")
    await healed(registry)


async def test_a_lock_of_a_moment_is_waited_for(registry: Registry, file: Path) -> None:
    with another_program(file) as other:
        other.execute("BEGIN IMMEDIATE")
        adding = asyncio.create_task(add(registry))
        await asyncio.sleep(0.5)
        assert not adding.done()
        other.execute("ROLLBACK")
        assert await has(registry, await adding)


async def test_a_later_schema_is_told_and_keeps_a_server_from_starting(
    registry: Registry, file: Path
) -> None:
    added = await add(registry)
    with another_program(file) as other:
        other.execute("UPDATE alembic_version SET version_num = '0002'")
        await until(lambda: not registry.reachable(), "the other schema is noticed")
        with refused("schema 0002 of a later release"):
            await add(registry)
        with pytest.raises(RegistryUnusable, match="0002 of a later release"):
            async with opened_registry(f"sqlite:///{file}"):
                pass
        other.execute("UPDATE alembic_version SET version_num = '0001'")
    await healed(registry)
    assert await has(registry, added)


@pytest.mark.parametrize("content", [b"no database" * 1000, None])
async def test_what_is_no_database_keeps_a_server_from_starting_and_stays_as_it_is(
    file: Path, content: bytes | None
) -> None:
    if content:
        file.write_bytes(content)
    else:
        file.mkdir()
    with pytest.raises(RegistryUnusable, match="cannot be used"):
        async with opened_registry(f"sqlite:///{file}"):
            pass
    assert content is None or file.read_bytes() == content


async def test_the_file_is_for_its_owner_alone_and_every_write_is_brought_to_disk(
    registry: Registry, file: Path
) -> None:
    await add(registry)
    for each in file.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0
    with another_program(file) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
