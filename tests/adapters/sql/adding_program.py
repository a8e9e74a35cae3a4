"""Adds models one after the other, and prints the name of each that is stored: `python -m
tests.adapters.sql.adding_program URL PROJECT`, until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import sys

from server.adapters.sql.factory import opened_registry
from tests.contracts.registry_things import model, stored


async def main(url: str, project: str) -> None:
    async with opened_registry(url) as registry:
        for number in itertools.count():
            await stored(registry, model(project, f"m{number}"))
            print(f"m{number}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
