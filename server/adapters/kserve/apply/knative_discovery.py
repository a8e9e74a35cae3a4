"""Whether the cluster has Knative, asked when a Deploy needs it and nothing of it is followed."""

from __future__ import annotations

from server.adapters.kserve.apply.api_server_errors import error_of, unavailable
from server.adapters.kserve.client import Answer, ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.collections import KNATIVE, Resource, serves
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.informers.watch_stream import Refused
from server.adapters.kserve.modes import STANDARD
from server.domain.errors import UnsupportedByCluster
from server.domain.service.inference_service import ServiceKey


class KnativePresence:
    """Knows whether services of Knative mode can run, and be told about."""

    def __init__(self, api: ApiServer, feed: StatusFeed) -> None:
        self._api = api
        self._feed = feed

    async def require(self, key: ServiceKey, seconds: float, *, by_default: bool) -> None:
        """Let a Deploy in Knative mode through; `by_default`: nobody named that mode.

        Raises UnsupportedByCluster where the cluster has no Knative, ServerLacksRights where its
        objects may not be read, and ClusterUnavailable.
        """
        if self._feed.mirror.follows_knative(key.namespace):
            return
        for kind in KNATIVE:
            await self._require(Resource(kind, key.namespace), key, seconds, by_default)
        # It came a moment ago: whoever deploys wants to be told of it from now on.
        self._feed.look_for_knative()

    async def _require(
        self, resource: Resource, key: ServiceKey, seconds: float, by_default: bool
    ) -> None:
        group = await self._ask(resource.group_path, seconds)
        try:
            there = serves(group, resource.kind)
        except Refused as e:
            raise error_of(group, key, writes=False) from e
        if not there:
            default = ", the cluster's default" if by_default else ""
            raise UnsupportedByCluster(
                f"{key} would run in Knative mode{default}, and the cluster has no Knative Serving:"
                f" install it, or name deployment_mode {STANDARD}"
            )
        found = await self._ask(f"{resource.path}?limit=1", seconds)
        if not found.ok:
            raise error_of(found, key, writes=False)

    async def _ask(self, path: str, seconds: float) -> Answer:
        try:
            return await self._api.send("GET", path, timeout=seconds)
        except (Unreachable, Unanswered) as e:
            raise unavailable(e) from e
