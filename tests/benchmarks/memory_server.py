"""The real application over a cluster in memory; prints its port."""

from __future__ import annotations

import asyncio
import os

from server import logs, settings
from server.adapters.memory.cluster import MemoryCluster
from server.app import Application


async def main() -> None:
    os.environ |= {"MODELSERVICE_LISTEN": "127.0.0.1:0", "MODELSERVICE_LOG_FORMAT": "json"}
    loaded = settings.load()
    logs.configure(loaded.log)
    application = Application(MemoryCluster(), loaded)
    print(await application.start(), flush=True)
    await application.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
