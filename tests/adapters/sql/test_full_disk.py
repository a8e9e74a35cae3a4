"""A disk that is full loses nothing of the registry, which heals once there is room again."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.adapters.sql.factory import migrate, opened_registry
from tests import postgresql
from tests.adapters.sql.statements import add, add_until_refused, has, healed, refused, until
from tests.alone import clean_environment
from tests.registry_store import leave_out_without_postgresql
from tests.small_disk import fill, make_room, small_disk

pytestmark = pytest.mark.processes


def test_sqlite_says_so_and_what_is_stored_is_read_on(tmp_path: Path) -> None:
    with small_disk(tmp_path, "4m") as disk:
        program = [sys.executable, "-m", "tests.adapters.sql.full_disk_program", tmp_path]
        subprocess.run([*disk.enter, *program], check=True, env=clean_environment(), timeout=120)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty one that PostgreSQL's user can enter, as it cannot pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_postgresql_loses_nothing_that_was_told_to_be_stored(open_folder: Path) -> None:
    """PostgreSQL refuses, or crashes and recovers, as it finds itself."""
    leave_out_without_postgresql()
    with small_disk(open_folder, "80m") as disk, postgresql.started_postgresql(disk) as server:
        await migrate(server.url)
        async with opened_registry(server.url) as registry:
            told = [await add(registry)]
            fill(disk.seen, spare=200_000)
            with refused("disk of the registry's database is full|nothing was stored|unknown"):
                await add_until_refused(registry, told)
            make_room(disk.seen)

            def is_back() -> bool:
                # Of a crash it may end at once, or after it has tried to recover.
                if server.has_ended():
                    server.stop()
                    server.start()
                return registry.reachable()

            await until(is_back, "the database is back")
            await healed(registry)
            for each in told:
                assert await has(registry, each)
