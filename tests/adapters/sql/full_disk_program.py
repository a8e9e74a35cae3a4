"""A registry on a disk that gets full, and has room again: `python -m
tests.adapters.sql.full_disk_program FOLDER`, an error where something is wrong."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from server.adapters.sql.factory import opened_registry
from tests.adapters.sql.statements import add, add_until_refused, has, healed, refused
from tests.small_disk import fill, make_room


async def main(folder: Path) -> None:
    file = folder / "registry.db"
    async with opened_registry(f"sqlite:///{file}") as registry:
        told = [await add(registry)]
        fill(folder, spare=40_000)
        with refused("disk of the registry's database is full"):
            await add_until_refused(registry, told)
        for each in told:
            assert await has(registry, each)
        make_room(folder)
        await healed(registry)
        for each in told:
            assert await has(registry, each)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    print(f"{len(told)} were stored before the disk was full")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
