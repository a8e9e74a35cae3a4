"""The real application over a cluster in memory, with a registry where MODELSERVICE_DATABASE_URL
names one; prints its port.

With `never-ready` a rollout stays as it is deployed: a Deploy is one change, not two. With
MODELSERVICE_AUTH=kubernetes the reviews are those of an API server that allows everything."""

from __future__ import annotations

import asyncio
import os
import sys

from server import logs, settings
from server.adapters.kserve.identity.identities import KubernetesIdentities
from server.adapters.kserve.identity.reviews import Reviews
from server.app import Application, opened_audit, opened_registry
from server.domain.caller import Access, BearerToken, Caller
from server.event_loop import run
from tests.memory_cluster.cluster import MemoryCluster


class AllowingReviews(Reviews):
    """Every token is that of one ServiceAccount, which may do everything."""

    def __init__(self) -> None:
        """It has no API server."""

    async def caller_of(self, token: BearerToken) -> Caller | None:
        """See Reviews."""
        del token
        groups = ("system:serviceaccounts", "system:serviceaccounts:ci", "system:authenticated")
        return Caller("system:serviceaccount:ci:deployer", uid="u-1", groups=groups)

    async def allows(self, caller: Caller, access: Access) -> bool:
        """See Reviews."""
        del caller, access
        return True


async def main() -> None:
    os.environ |= {"MODELSERVICE_LISTEN": "127.0.0.1:0", "MODELSERVICE_LOG_FORMAT": "json"}
    # Else there would be a registry of this user's own.
    os.environ["KSERVE_ENABLED"] = "true"
    loaded = settings.load()
    logs.configure(loaded.log)
    identities = None
    if loaded.identity.auth == "kubernetes":
        identity = loaded.identity
        identities = KubernetesIdentities(
            AllowingReviews(), identity.audience, identity.auth_outage
        )
    async with opened_registry(loaded) as registry, opened_audit(loaded) as audit:
        cluster = MemoryCluster()
        if "never-ready" in sys.argv:
            cluster.ready_after = None
        application = Application(cluster, loaded, registry, identities=identities, audit=audit)
        print(await application.start(), flush=True)
        await application.run(asyncio.Event())


if __name__ == "__main__":
    run(main())
