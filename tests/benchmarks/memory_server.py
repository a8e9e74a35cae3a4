"""The real application over a cluster in memory, with a registry where MODELSERVICE_DATABASE_URL
names one; prints its port.

With `never-ready` a rollout stays as it is deployed: a Deploy is one change, not two."""

from __future__ import annotations

import asyncio
import os
import sys

from server import logs, settings
from server.app import Application, opened_registry
from tests.memory_cluster.cluster import MemoryCluster


async def main() -> None:
    os.environ |= {"MODELSERVICE_LISTEN": "127.0.0.1:0", "MODELSERVICE_LOG_FORMAT": "json"}
    # Else there would be a registry of this user's own.
    os.environ["KSERVE_ENABLED"] = "true"
    loaded = settings.load()
    logs.configure(loaded.log)
    async with opened_registry(loaded) as registry:
        cluster = MemoryCluster()
        if "never-ready" in sys.argv:
            cluster.ready_after = None
        application = Application(cluster, loaded, registry)
        print(await application.start(), flush=True)
        await application.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
